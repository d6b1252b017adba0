package openapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// checkDoubles refuses a JSON object with a member given twice: the last would
// count, and a path with its permissions be lost. YAML is checked as it is
// read.
func checkDoubles(file []byte) error {
	file = bytes.TrimSpace(file)
	if len(file) == 0 {
		return errors.New("the description is empty")
	}
	if file[0] != '{' || !json.Valid(file) {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(file))
	var open []map[string]bool // members so far of each object around; nil for an array
	key := false               // the next token is a member's name
	for {
		t, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch t := t.(type) {
		case json.Delim:
			if t == '{' {
				open = append(open, make(map[string]bool))
			} else if t == '[' {
				open = append(open, nil)
			} else {
				open = open[:len(open)-1]
			}
			key = len(open) > 0 && open[len(open)-1] != nil
			continue
		case string:
			if key {
				members := open[len(open)-1]
				if members[t] {
					return fmt.Errorf("%q is given twice in one object", t)
				}
				members[t] = true
				key = false
				continue
			}
		}
		key = len(open) > 0 && open[len(open)-1] != nil
	}
}
