package dialect

import "github.com/keytoll/keytoll/caddymodule/access"

// Compiled is a dialect ready for use. It is immutable and safe for concurrent
// use.
type Compiled struct {
	d *Dialect
}

// Check says what is wrong with d and what to write instead, or nil.
func (d *Dialect) Check() error { return nil }

// Compile checks d and makes it ready. Later changes of d have no effect.
func (d *Dialect) Compile() (*Compiled, error) { return &Compiled{d: d.Clone()}, d.Check() }

// Refusal returns the answer to a reason that does not let in. It allocates
// nothing.
func (c *Compiled) Refusal(r access.Reason) Refusal { return Refusal{} }

// RefusalBody returns the body for a reason whose Refusal is Dynamic.
func (c *Compiled) RefusalBody(r access.Reason, v Values) []byte { return nil }

// Foreign returns the answer for an id that is not the caller's or does not
// exist.
func (c *Compiled) Foreign() Refusal { return Refusal{} }

// Error returns the answer to an error of the management API. The code is
// keytoll's own, such as not_found; field may be a canonical field, which is
// named as the product does. Field and hint become details and may be empty.
func (c *Compiled) Error(status int, code, message, field, hint string, v Values) (int, []byte, string) {
	return status, nil, ""
}

// Key returns the body of the answer to create, get, update, rotate or me, with
// a line feed at the end; nil if it is empty.
func (c *Compiled) Key(action string, in KeyView) []byte { return nil }

// List returns the body of the answer to list.
func (c *Compiled) List(in []KeyView) []byte { return nil }

// Revoke returns the body of the answer to revoke; nil if it is empty.
func (c *Compiled) Revoke(in KeyView) []byte { return nil }

// Shape returns the shape of an action with all defaults filled in, but for
// Grace. It must not be changed.
func (c *Compiled) Shape(action string) *Shape { return nil }

// Name returns the product's name of a canonical field.
func (c *Compiled) Name(field string) string { return field }

// Realm returns the realm of WWW-Authenticate.
func (c *Compiled) Realm() string { return "" }

// Reset returns the form of X-RateLimit-Reset: epoch, seconds, iso or off.
func (c *Compiled) Reset() string { return "" }

// RateHeaders returns x, draft, both, off, or "" for the gate's own.
func (c *Compiled) RateHeaders() string { return "" }

// Input reads the body of a create, update or rotate request. Its error is an
// *InputError. An empty body is one without members where none is required.
func (c *Compiled) Input(action string, body []byte) (*Input, error) { return nil, nil }
