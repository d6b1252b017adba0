package dialect

import "encoding/json"

// member is one compiled member of a key in an answer.
type member struct {
	name  []byte // quoted, with the colon
	write func(b []byte, c *Compiled, v *KeyView) []byte
}

// memberWriters write the value of each field.
var memberWriters = map[string]func(b []byte, c *Compiled, v *KeyView) []byte{
	"id":          func(b []byte, _ *Compiled, v *KeyView) []byte { return appendString(b, v.Key.ID.String()) },
	"key":         func(b []byte, _ *Compiled, v *KeyView) []byte { return appendString(b, v.Secret) },
	"name":        func(b []byte, _ *Compiled, v *KeyView) []byte { return appendString(b, v.Key.Name) },
	"description": func(b []byte, _ *Compiled, v *KeyView) []byte { return appendString(b, v.Key.Description) },
	"prefix":      func(b []byte, _ *Compiled, v *KeyView) []byte { return appendString(b, v.Key.Prefix) },
	"environment": func(b []byte, _ *Compiled, v *KeyView) []byte { return appendString(b, v.Key.Environment) },
	"status":      func(b []byte, _ *Compiled, v *KeyView) []byte { return appendString(b, v.Key.Status.String()) },
	"permissions": func(b []byte, _ *Compiled, v *KeyView) []byte { return appendStrings(b, v.Key.Permissions()) },
	"rate":        func(b []byte, _ *Compiled, v *KeyView) []byte { return appendRate(b, v.Key.Rate) },
	"rate_per_minute": func(b []byte, _ *Compiled, v *KeyView) []byte {
		return appendPerMinute(b, v.Key.Rate)
	},
	"addresses":  func(b []byte, _ *Compiled, v *KeyView) []byte { return appendAddresses(b, v) },
	"metadata":   func(b []byte, _ *Compiled, v *KeyView) []byte { return appendMetadata(b, v.Key.Metadata) },
	"plan":       func(b []byte, _ *Compiled, v *KeyView) []byte { return appendText(b, v.Plan) },
	"tenant":     func(b []byte, _ *Compiled, v *KeyView) []byte { return appendString(b, v.Key.Tenant) },
	"created_at": func(b []byte, c *Compiled, v *KeyView) []byte { return c.appendTime(b, unix(v.Key.CreatedAt)) },
	"expires_at": func(b []byte, c *Compiled, v *KeyView) []byte { return c.appendTime(b, v.Key.Expires) },
	"rotated_at": func(b []byte, c *Compiled, v *KeyView) []byte { return c.appendTime(b, unix(v.Key.RotatedAt)) },
	"revoked_at": func(b []byte, c *Compiled, v *KeyView) []byte { return c.appendTime(b, unix(v.Key.RevokedAt)) },
	"previous_expires_at": func(b []byte, c *Compiled, v *KeyView) []byte {
		if v.Key.Previous == nil {
			return c.appendTime(b, 0)
		}
		return c.appendTime(b, v.Key.Previous.Until)
	},
	"last_used_at": func(b []byte, c *Compiled, v *KeyView) []byte { return c.appendTime(b, v.Use.At) },
	"last_used_address": func(b []byte, _ *Compiled, v *KeyView) []byte {
		if !v.Use.Address.IsValid() {
			return appendText(b, "")
		}
		return appendString(b, v.Use.Address.String())
	},
	"last_used_agent": func(b []byte, _ *Compiled, v *KeyView) []byte { return appendText(b, v.Use.Agent) },
	"limits":          func(b []byte, _ *Compiled, v *KeyView) []byte { return appendLimits(b, v) },
	"last_refusal": func(b []byte, c *Compiled, v *KeyView) []byte {
		if v.Refusal == nil {
			return append(b, "null"...)
		}
		b = appendString(append(b, `{"reason":`...), v.Refusal.Reason.String())
		return append(c.appendTime(append(b, `,"at":`...), v.Refusal.At), '}')
	},
}

func appendAddresses(b []byte, v *KeyView) []byte {
	var list []string
	for _, a := range v.Key.Addresses() {
		list = append(list, a.String())
	}
	return appendStrings(b, list)
}

func appendMetadata(b []byte, m map[string]string) []byte {
	if len(m) == 0 {
		return append(b, "{}"...)
	}
	object, _ := json.Marshal(m) // strings alone: cannot fail
	return append(b, object...)
}

func appendLimits(b []byte, v *KeyView) []byte {
	b = append(b, '[')
	for i, r := range v.Limits {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendRate(b, r)
	}
	return append(b, ']')
}

// Key returns the body of the answer to create, get, update, rotate or me, with
// a line feed at the end; nil if it is empty.
func (c *Compiled) Key(action string, in KeyView) []byte {
	s := c.shapes[action]
	if s.Empty {
		return nil
	}
	b := make([]byte, 0, 512)
	b = append(b, '{')
	if s.Wrap == "" {
		b = s.fields(b, c, &in)
	} else {
		b = append(appendName(b, s.Wrap), '{')
		b = append(s.fields(b, c, &in), '}')
	}
	return append(appendBeside(b, s.extra), '}', '\n')
}

// fields writes the members of a key into an open object.
func (s *compiledShape) fields(b []byte, c *Compiled, v *KeyView) []byte {
	for i, m := range s.members {
		if i > 0 {
			b = append(b, ',')
		}
		b = m.write(append(b, m.name...), c, v)
	}
	return b
}

// List returns the body of the answer to list.
func (c *Compiled) List(in []KeyView) []byte {
	s := c.shapes[List]
	b := make([]byte, 0, 64+256*len(in))
	if !s.Array {
		b = appendName(append(b, '{'), s.Wrap)
	}
	b = append(b, '[')
	for i := range in {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(s.fields(append(b, '{'), c, &in[i]), '}')
	}
	b = append(b, ']')
	if !s.Array {
		b = append(appendBeside(b, s.extra), '}')
	}
	return append(b, '\n')
}

// Revoke returns the body of the answer to revoke; nil if it is empty.
func (c *Compiled) Revoke(in KeyView) []byte { return c.Key(Revoke, in) }
