package caddymodule

import (
	"bufio"
	"fmt"
	"strings"
)

// tenantLines adds a column tenant, the same in all lines, to a file. In neither
// format does a record take more than one line.
type tenantLines struct {
	in     *bufio.Reader
	tenant string
	buf    []byte // what is left of the last line
	err    error  // after buf
	ndjson bool
	begun  bool // the first line was read
	within bool // a line of which a part was read
}

func (t *tenantLines) Read(b []byte) (int, error) {
	for len(t.buf) == 0 {
		if t.err != nil {
			return 0, t.err
		}
		var line []byte
		line, t.err = t.in.ReadSlice('\n')
		whole := t.err != bufio.ErrBufferFull
		if !whole {
			t.err = nil
		}
		t.buf = t.line(string(line), whole)
		t.within = !whole
	}
	n := copy(b, t.buf)
	t.buf = t.buf[n:]
	return n, nil
}

// line adds the column to a line. One that is longer than an importer takes
// comes in parts and need not be right.
func (t *tenantLines) line(line string, whole bool) []byte {
	text := strings.TrimRight(line, "\r\n")
	first := !t.begun && !t.within
	if t.within || !whole || strings.TrimSpace(text) == "" {
		return []byte(line)
	}
	t.begun = true
	if first {
		t.ndjson = strings.HasPrefix(strings.TrimPrefix(text, "\ufeff"), "{")
	}
	if t.ndjson {
		before, rest, ok := strings.Cut(line, "{")
		if !ok || strings.Trim(before, " \t\ufeff") != "" {
			return []byte(line)
		}
		return fmt.Appendf(nil, "%s{\"tenant\":%q,%s", before, t.tenant, rest)
	}
	cell := t.tenant
	if first {
		cell = "tenant"
	}
	return []byte(text + "," + cell + line[len(text):])
}
