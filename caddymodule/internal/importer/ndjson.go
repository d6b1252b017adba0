package importer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// jsonParser reads one JSON object a line.
type jsonParser struct{ wire bool }

var errJSON = errors.New("not a JSON object, or one with a fault in it")

func (p *jsonParser) parse(line []byte, d *draft) error {
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.UseNumber()
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return errJSON
	}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return errJSON
		}
		name, _ := t.(string)
		if name == "line" && p.wire {
			err = lineNumber(dec, d)
		} else if c := columnNamed(name); c != nil {
			err = p.member(dec, c, d)
		} else {
			err = fmt.Errorf("unknown member%s", shown(name))
		}
		if err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil {
		return errJSON
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("something stands behind the JSON object")
	}
	return nil
}

// member reads one value: text, a number where text is one, a list or an object
// of texts.
func (p *jsonParser) member(dec *json.Decoder, c *column, d *draft) error {
	t, err := dec.Token()
	if err != nil {
		return errJSON
	}
	switch v := t.(type) {
	case nil:
		return d.once(c)
	case string:
		if v == "" {
			return d.once(c)
		}
		return d.text(c, v)
	case json.Number:
		if c.number {
			return d.text(c, v.String())
		}
	case bool:
		if c.name == "disabled" {
			return d.text(c, strconv.FormatBool(v))
		}
	case json.Delim:
		if v == '[' && c.list != nil {
			return list(dec, c, d)
		}
		if v == '{' && c.pairs != nil {
			return pairs(dec, c, d)
		}
	}
	return c.wrong("of the wrong type")
}

func list(dec *json.Decoder, c *column, d *draft) error {
	var values []string
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return errJSON
		}
		s, ok := t.(string)
		if !ok {
			return c.wrong("a list that holds something else than texts")
		}
		values = append(values, s)
	}
	if _, err := dec.Token(); err != nil {
		return errJSON
	}
	if err := d.once(c); err != nil {
		return err
	}
	return c.list(d, values)
}

func pairs(dec *json.Decoder, c *column, d *draft) error {
	m := map[string]string{}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return errJSON
		}
		value, err := dec.Token()
		if err != nil {
			return errJSON
		}
		k, _ := name.(string)
		v, ok := value.(string)
		if !ok {
			return c.wrong("an object that holds something else than texts")
		}
		if _, twice := m[k]; twice {
			return c.wrong("an object that has one member twice")
		}
		m[k] = v
	}
	if _, err := dec.Token(); err != nil {
		return errJSON
	}
	if err := d.once(c); err != nil {
		return err
	}
	return c.pairs(d, m)
}

func lineNumber(dec *json.Decoder, d *draft) error {
	t, err := dec.Token()
	number, ok := t.(json.Number)
	if err != nil || !ok {
		return &fieldError{"line", "line: want a whole number"}
	}
	n, err := strconv.ParseUint(number.String(), 10, 31)
	if err != nil {
		return &fieldError{"line", "line: want a whole number"}
	}
	d.key.Line = int(n)
	return nil
}
