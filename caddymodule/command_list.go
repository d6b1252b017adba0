package caddymodule

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

// listLimit is how many records a list shows unless it is told otherwise.
const listLimit = 1000

// paged adds the flags of a list.
func paged(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().Int("limit", listLimit, "Show at most so many")
	cmd.Flags().Bool("all", false, "Show all there are")
	cmd.Flags().String("cursor", "", "Go on where an earlier list ended")
	return cmd
}

// fetcher gets a page of a list, and the cursor of the next page.
type fetcher[T any] func(*mgmt.Client, mgmt.Page) (page []T, next string, err error)

// printList shows a list page by page, in bounded memory, as a table or as the
// member name of a JSON object.
func printList[T any](s *session, name, header string, row func(T) []string, fetch fetcher[T]) error {
	limit, _ := s.cmd.Flags().GetInt("limit")
	switch {
	case limit < 1:
		return usage("--limit %d: want 1 or more", limit)
	case s.is("all") && s.given("limit"):
		return usage("give --limit or --all, not both")
	}
	c, err := s.client()
	if err != nil {
		return err
	}
	out := newSheet(s, name, header)
	next, left := s.text("cursor"), limit
	for more := true; more; more = next != "" && (s.is("all") || left > 0) {
		p := mgmt.Page{Cursor: next, Limit: registrar.MaxLimit}
		if !s.is("all") {
			p.Limit = min(p.Limit, left)
		}
		var page []T
		if page, next, err = fetch(c, p); err != nil {
			return err
		}
		left -= len(page)
		for _, v := range page {
			if err := out.add(v, func() []string { return row(v) }); err != nil {
				return err
			}
		}
	}
	if err := out.end(next); err != nil {
		return err
	}
	if next != "" {
		note(s.err, "there are more: show them with --all, or from here with --cursor %s", next)
	}
	return nil
}

// sheet writes a list as it comes.
type sheet struct {
	s     *session
	name  string
	table *tabwriter.Writer // nil for JSON
	rows  int
}

func newSheet(s *session, name, header string) *sheet {
	h := &sheet{s: s, name: name}
	if !s.json() {
		h.table = tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(h.table, header)
	}
	return h
}

func (h *sheet) add(v any, row func() []string) error {
	h.rows++
	if h.table != nil {
		if _, err := fmt.Fprintln(h.table, strings.Join(row(), "\t")); err != nil || h.rows%listLimit != 0 {
			return err
		}
		return h.table.Flush()
	}
	var b bytes.Buffer
	if h.rows == 1 {
		h.open(&b)
	} else {
		b.WriteByte(',')
	}
	b.WriteString("\n    ")
	if err := encodeJSON(&b, "    ", v); err != nil {
		return err
	}
	_, err := h.s.out.Write(bytes.TrimRight(b.Bytes(), "\n"))
	return err
}

func (h *sheet) open(w io.Writer) { fmt.Fprintf(w, "{\n  %q: [", h.name) }

// end ends the list with the cursor of its next page; empty if there is none.
func (h *sheet) end(next string) error {
	if next == "" {
		return h.close("", nil)
	}
	return h.close("next", next)
}

// close ends the list with another member; its name may be empty for none.
func (h *sheet) close(name string, v any) error {
	if h.table != nil {
		return h.table.Flush()
	}
	var b bytes.Buffer
	if h.rows == 0 {
		h.open(&b)
	} else {
		b.WriteString("\n  ")
	}
	b.WriteByte(']')
	if name != "" {
		fmt.Fprintf(&b, ",\n  %q: ", name)
		if err := encodeJSON(&b, "  ", v); err != nil {
			return err
		}
		b.Truncate(b.Len() - 1)
	}
	b.WriteString("\n}\n")
	_, err := h.s.out.Write(b.Bytes())
	return err
}

func encodeJSON(w io.Writer, prefix string, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent(prefix, "  ")
	return enc.Encode(v)
}
