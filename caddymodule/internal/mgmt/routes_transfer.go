package mgmt

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

// backup streams a copy of the store. Once the first byte is out there is no
// status left to say that it failed: the connection is cut off instead.
func (h *Handler) backup(w http.ResponseWriter, r *http.Request) {
	c, err := h.open(w, r)
	if err == nil && h.Backup == nil {
		err = &registrar.Error{Code: registrar.Unavailable, Message: "this store has no backup", Hint: "use the store's own tools"}
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	out := &started{w: w, header: func(hd http.Header) {
		hd.Set("Content-Type", "application/octet-stream")
		hd.Set("Content-Disposition", `attachment; filename="keytoll.db"`)
	}}
	n, err := h.Backup(c.Context(), out)
	if err == nil {
		err = c.RecordBackup(c.Context(), n)
	}
	h.finish(out, r, err)
}

// started is an answer whose header waits for the first byte.
type started struct {
	w      http.ResponseWriter
	header func(http.Header)
	begun  bool
}

func (s *started) Write(b []byte) (int, error) {
	if !s.begun {
		s.begun = true
		s.header(s.w.Header())
		s.w.WriteHeader(http.StatusOK)
	}
	return s.w.Write(b)
}

// finish ends a streamed answer.
func (h *Handler) finish(out *started, r *http.Request, err error) {
	switch {
	case err == nil:
	case !out.begun:
		h.fail(out.w, r, err)
	default:
		if h.OnInternal != nil {
			h.OnInternal(r, err)
		}
		panic(http.ErrAbortHandler)
	}
}

// export streams all tenants and keys, a page at a time: what changes meanwhile
// may be in it as it was or as it is.
func (h *Handler) export(w http.ResponseWriter, r *http.Request) {
	c, err := h.open(w, r)
	if err == nil && r.URL.RawQuery != "" {
		_, _, err = c.query()
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	out := &started{w: w, header: func(hd http.Header) {
		hd.Set("Content-Type", ndjson)
		hd.Set("Content-Disposition", `attachment; filename="keytoll.ndjson"`)
	}}
	enc := json.NewEncoder(out)
	h.finish(out, r, c.export(enc.Encode))
}

func (c *call) export(put func(any) error) error {
	if err := put(Line{Export: exportVersion, Installation: c.door.installation()}); err != nil {
		return err
	}
	end := Line{Type: lineEnd}
	for after, more := "", true; more; more = after != "" {
		page, next, err := c.Tenants(c.Context(), after, registrar.MaxLimit)
		if err != nil {
			return err
		}
		for _, t := range page {
			if err := put(tenantLine(t)); err != nil {
				return err
			}
		}
		after, end.Tenants = next, end.Tenants+len(page)
	}
	none := access.KeyID{}
	for after, more := none, true; more; more = after != none {
		page, next, err := c.Keys(c.Context(), registrar.KeyFilter{}, after, registrar.MaxLimit)
		if err != nil {
			return err
		}
		for _, k := range page {
			if err := put(keyLine(k, c.lastUse(k.ID))); err != nil {
				return err
			}
		}
		after, end.Keys = next, end.Keys+len(page)
	}
	return put(end)
}

func (c *call) lastUse(id access.KeyID) access.Use {
	if c.door.Use == nil {
		return access.Use{}
	}
	return c.door.Use(id)
}

func (h *Handler) installation() string {
	if h.Installation == nil {
		return ""
	}
	return h.Installation()
}

const maxImport = 16 << 20 // bytes of a request

const ndjson = "application/x-ndjson"

// load answers POST import.
func (h *Handler) load(w http.ResponseWriter, r *http.Request) {
	c, err := h.open(w, r)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	report, err := c.load(w)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	h.write(w, r, http.StatusOK, report)
}

func (c *call) load(w http.ResponseWriter) (*ImportReport, error) {
	if t, _, err := mime.ParseMediaType(c.Header.Get("Content-Type")); err != nil || t != ndjson {
		return nil, &Error{Status: http.StatusUnsupportedMediaType, Code: "invalid_request",
			Message: "the body must be one JSON object a line", Hint: "send the header Content-Type: " + ndjson}
	}
	in := &loading{call: c, report: &ImportReport{Errors: []ImportError{}, SkippedLines: []int{}}}
	if err := in.options(); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, c.Body, maxImport))
	if err != nil {
		return nil, badRequest("", "the body could not be read, or is longer than %d bytes: send it in parts", maxImport)
	}
	at := 0
	for line := range bytes.Lines(body) {
		at++
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		if err := in.line(at, line); err != nil {
			return nil, fmt.Errorf("import stopped before line %d: %w", at, err)
		}
	}
	return in.report, in.flush()
}
