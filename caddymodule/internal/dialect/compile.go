package dialect

import (
	"fmt"
	"slices"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// Compiled is a dialect ready for use. It is immutable and safe for concurrent
// use.
type Compiled struct {
	d           *Dialect
	contentType string
	refusals    [access.NumReasons]Refusal
	failures    [access.NumReasons]failure // what refusals are made of
	foreign     Refusal
	shapes      map[string]*compiledShape
}

// compiledShape is a shape with its members and inputs looked up.
type compiledShape struct {
	*Shape
	members []member
	extra   []byte // the constant members, without a comma at either end
	inputs  []input
	grace   *time.Duration
}

// Compile checks d and makes it ready. Later changes of d have no effect.
func (d *Dialect) Compile() (*Compiled, error) {
	if err := d.Check(); err != nil {
		return nil, err
	}
	c := &Compiled{d: d.Clone(), contentType: "application/json", shapes: make(map[string]*compiledShape)}
	if d.Errors == "problem" {
		c.contentType = "application/problem+json"
	}
	for i := range c.refusals {
		if r := access.Reason(i); !r.LetsIn() {
			c.compileReason(r)
		}
	}
	c.compileForeign()
	for _, action := range Actions() {
		s, err := c.compileShape(action)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", action, err)
		}
		c.shapes[action] = s
	}
	return c, nil
}

func (c *Compiled) compileShape(action string) (*compiledShape, error) {
	s := &compiledShape{Shape: c.d.resolved(action)}
	for _, field := range s.Members {
		s.members = append(s.members, member{appendName(nil, c.d.name(field)), memberWriters[field]})
	}
	for _, m := range s.Extra {
		s.extra = appendName(s.extra, m.Name)
		if m.JSON {
			s.extra = append(s.extra, m.Value...)
		} else {
			s.extra = appendString(s.extra, m.Value)
		}
	}
	for _, field := range s.Inputs {
		s.inputs = append(s.inputs, input{field, c.d.name(field), slices.Contains(s.Required, field), inputReaders[field]})
	}
	var err error
	s.grace, err = parseGrace(s.Grace)
	return s, err
}

// Shape returns the shape of an action with all defaults filled in, but for
// Grace. It must not be changed. It panics for a word that is no action.
func (c *Compiled) Shape(action string) *Shape { return c.shapes[action].Shape }

// Name returns the product's name of a canonical field.
func (c *Compiled) Name(field string) string { return c.d.name(field) }

// Realm returns the realm of WWW-Authenticate.
func (c *Compiled) Realm() string { return or(c.d.Realm, "api") }

// Reset returns the form of X-RateLimit-Reset: epoch, seconds, iso or off.
func (c *Compiled) Reset() string { return or(c.d.Reset, "epoch") }

// RateHeaders returns x, draft, both, off, or "" for the gate's own.
func (c *Compiled) RateHeaders() string { return c.d.RateHeaders }

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
