package importer

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// csvParser reads records of RFC 4180 that end with their line.
type csvParser struct {
	columns []*column
	cells   []string // of the last line
}

func newCSVParser(header []byte) (*csvParser, error) {
	names, err := split(string(header), nil)
	if err != nil {
		return nil, err
	}
	p := new(csvParser)
	have := map[string]bool{}
	if len(names) == 1 && strings.ContainsAny(names[0], ";\t|") {
		return nil, errors.New("want commas between the columns")
	}
	for i, written := range names {
		written = strings.TrimSpace(written)
		name := strings.ToLower(written)
		c := columnNamed(name)
		switch {
		case c == nil:
			return nil, fmt.Errorf("column %d: unknown name%s; want %s", i+1, shown(written), strings.Join(columnNames(), ", "))
		case have[name]:
			return nil, fmt.Errorf("the column %s is there twice", name)
		}
		have[name] = true
		p.columns = append(p.columns, c)
	}
	if !have["tenant"] {
		return nil, errors.New("there is no column tenant")
	}
	if !have["key"] && !have["sha256"] && !have["hash"] {
		return nil, errors.New("there is no column key, sha256 or hash")
	}
	return p, nil
}

func (p *csvParser) parse(line []byte, d *draft) (err error) {
	if p.cells, err = split(string(line), p.cells[:0]); err != nil {
		return err
	}
	if len(p.cells) != len(p.columns) {
		return fmt.Errorf("the line has %d columns, the header %d", len(p.cells), len(p.columns))
	}
	for i, c := range p.columns {
		if cell := strings.TrimSpace(p.cells[i]); cell != "" {
			if err := d.text(c, cell); err != nil {
				return err
			}
		}
	}
	return nil
}

// split appends the cells of a line.
func split(line string, cells []string) ([]string, error) {
	for {
		if !strings.HasPrefix(line, `"`) {
			cell, rest, more := strings.Cut(line, ",")
			if strings.Contains(cell, `"`) {
				return cells, errors.New(`a '"' within a cell that does not start with one`)
			}
			cells = append(cells, cell)
			if !more {
				return cells, nil
			}
			line = rest
			continue
		}
		cell, rest, err := quoted(line[1:])
		if err != nil {
			return cells, err
		}
		cells = append(cells, cell)
		if rest == "" {
			return cells, nil
		}
		line = rest[1:]
	}
}

// quoted reads a cell behind its opening quote; rest is empty or starts with a
// comma.
func quoted(s string) (cell, rest string, err error) {
	var parts []string // between doubled quotes
	for {
		i := strings.IndexByte(s, '"')
		if i < 0 {
			return "", "", errors.New("a quoted cell that does not end on its line")
		}
		parts = append(parts, s[:i])
		s = s[i+1:]
		if !strings.HasPrefix(s, `"`) {
			break
		}
		s = s[1:]
	}
	if s != "" && s[0] != ',' {
		return "", "", errors.New("a quoted cell with something behind its end")
	}
	return strings.Join(parts, `"`), s, nil
}

// shown returns " <name>" if a name looks like one: the first line of a file
// without a header holds a key.
func shown(name string) string {
	if name == "" || len(name) > 20 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_- ") != "" {
		return ""
	}
	return " " + name
}

func columnNamed(name string) *column {
	i := slices.IndexFunc(columns, func(c *column) bool { return c.name == name })
	if i < 0 {
		return nil
	}
	return columns[i]
}

func columnNames() []string {
	var names []string
	for _, c := range columns {
		names = append(names, c.name)
	}
	return names
}
