package engine

import (
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/gate"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// Hooks is what the engine asks of those above it. They are called from the
// engine's own goroutines, one at a time but for Verify, and may take their
// time. Errors are for the engine to try again; whoever wants them logged does
// that in the hook.
type Hooks struct {
	// RecordUses stores last uses. Uses of a call that fails are kept for the
	// next one. nil: the engine stores them itself.
	RecordUses func(map[access.KeyID]access.Use) error
	// OnAdopt is told of the first good use of an imported secret: the key's
	// digest, `was` under alg, should become ours. After an error the next use
	// asks again.
	OnAdopt func(id access.KeyID, alg uint8, was [32]byte, secret token.Secret) error
	// OnSettled is told of the first good use of a secret that came by rotation
	// while the one before it is still good. After an error it is told again a
	// few times.
	OnSettled func(access.KeyID) error
	// Verify reports whether text is the secret that another product's hash was
	// made of. It is called by at most two goroutines at once. nil: no imported
	// hash is ever right.
	Verify func(hash, text string) bool
}

// Hooks sets the hooks, in place of those set before. A call of an old hook
// that is on its way goes on.
func (e *Engine) Hooks(h Hooks) { e.hooks.Store(&h) }

// Admitted books a request that was let in: the last use of its key, at most
// once a minute, and the first use of a new secret. It allocates nothing
// otherwise.
func (e *Engine) Admitted(g *gate.Gate, r *http.Request, c *gate.Call) {
	rec := c.Record
	if rec == nil {
		return
	}
	at := e.Unix(c.Started)
	if rec.Touch(MinuteOf(at)) {
		agent := ""
		if v := r.Header["User-Agent"]; len(v) > 0 {
			agent = g.Keys.Redact(v[0]) // somebody's key may stand there
		}
		e.Uses.add(rec.ID, access.Use{At: at, Address: g.Address(r, c), Agent: ownAgent(agent)})
	}
	if !c.Old && rec.Rotating() && rec.Settle() {
		e.settle(rec.ID)
	}
}

// Refused books a refused request, if the key is known.
func (e *Engine) Refused(c *gate.Call) {
	if c.Record != nil {
		e.Refusals.put(c.Record.ID, Refusal{Reason: c.Reason, At: e.Unix(c.Started)})
	}
}

// MinuteOf counts minutes from 1, so that the first is another than that of what
// was never touched: for Record.Touch, and ProviderKey.Touch.
func MinuteOf(unix int64) uint32 { return uint32(unix/60) + 1 }

// ownAgent returns what is kept of a User-Agent: a copy, as the original is
// part of a larger buffer, of valid UTF-8.
func ownAgent(s string) string {
	if len(s) > access.MaxAgent {
		s = s[:access.MaxAgent]
		for len(s) > 0 && !utf8.RuneStart(s[len(s)-1]) {
			s = s[:len(s)-1]
		}
		if r, n := utf8.DecodeLastRuneInString(s); r == utf8.RuneError && n == 1 {
			s = s[:len(s)-1]
		}
	}
	return strings.Clone(strings.ToValidUTF8(s, "?"))
}
