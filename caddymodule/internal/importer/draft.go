package importer

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/keytoll/keytoll/caddymodule/internal/foreign"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// minKey is how long a key must be, in bytes: a shorter one can be guessed.
const minKey = 8

// draft is the key of a line that is being read.
type draft struct {
	o    *Options
	key  registrar.ImportKey
	have uint32 // bit by column, to find doubles
}

// fieldError is what is wrong with one column. The message holds nothing of
// what stood there.
type fieldError struct{ field, message string }

func (e *fieldError) Error() string { return e.message }

func refusal(line int, err error) Refusal {
	r := Refusal{Line: line, Message: err.Error()}
	if e, ok := errors.AsType[*fieldError](err); ok {
		r.Field = e.field
	}
	return r
}

// once notes that the line has a column.
func (d *draft) once(c *column) error {
	if d.have&c.bit != 0 {
		return &fieldError{c.name, "the member " + c.name + " is there twice"}
	}
	d.have |= c.bit
	return nil
}

func (d *draft) text(c *column, value string) error {
	if err := d.once(c); err != nil {
		return err
	}
	return c.text(d, value)
}

// finish checks what columns say together.
func (d *draft) finish() error {
	k := &d.key
	n := 0
	for _, have := range []bool{!k.Secret.IsZero(), k.SHA256 != nil, k.Hash != ""} {
		if have {
			n++
		}
	}
	switch {
	case k.Tenant == "":
		return &fieldError{"tenant", "a key needs a tenant"}
	case n == 0:
		return &fieldError{"key", "one of key, sha256 and hash is needed"}
	case n > 1:
		return &fieldError{"key", "only one of key, sha256 and hash may be given"}
	}
	return nil
}

// secret takes a key in plain.
func (d *draft) secret(text string) error {
	switch d.o.Keys.Classify(text) {
	case token.Oversize:
		return &fieldError{"key", fmt.Sprintf("no key: want at most %d visible ASCII characters", token.MaxLen)}
	case token.Garbage:
		return &fieldError{"key", "a key with a prefix of ours and a wrong checksum: it would be refused before any lookup"}
	}
	if len(text) < minKey {
		return &fieldError{"key", fmt.Sprintf("a key of less than %d characters can be guessed", minKey)}
	}
	d.key.Secret = token.Wrap(text)
	return nil
}

// sum takes a SHA-256, which becomes a salted hash if the file has a salt.
func (d *draft) sum(text string) error {
	sum, err := foreign.SHA256(text)
	if err != nil {
		return &fieldError{"sha256", err.Error()}
	}
	if len(d.o.Salt) == 0 {
		d.key.SHA256 = sum[:]
		return nil
	}
	h, err := foreign.Salted(d.o.Salt, sum, d.o.SaltSuffix)
	if err != nil {
		return &fieldError{"sha256", err.Error()}
	}
	d.key.Hash = h.Text()
	return nil
}

// hash takes a slow or salted hash.
func (d *draft) hash(text string) error {
	h, err := foreign.Parse(text)
	if err != nil {
		return &fieldError{"hash", err.Error()}
	}
	if d.key.Hash != "" {
		return &fieldError{"hash", "only one of key, sha256 and hash may be given"}
	}
	d.key.Hash = h.Text()
	return nil
}

// parseMetadata reads a JSON object of texts, or k=v;k=v.
func parseMetadata(text string) (map[string]string, error) {
	if strings.HasPrefix(text, "{") {
		d := &draft{}
		c := columnNamed("metadata")
		dec := json.NewDecoder(strings.NewReader(text))
		_, _ = dec.Token()
		if err := pairs(dec, c, d); err != nil {
			return nil, err
		}
		if strings.TrimSpace(text[dec.InputOffset():]) != "" {
			return nil, c.wrong("something behind the JSON object")
		}
		return d.key.Metadata, nil
	}
	m := map[string]string{}
	for pair := range strings.SplitSeq(text, ";") {
		k, v, ok := strings.Cut(strings.TrimSpace(pair), "=")
		if _, twice := m[k]; twice || !ok || k == "" {
			return nil, errors.New("no pairs")
		}
		m[k] = v
	}
	return m, nil
}
