package gate

import (
	"crypto/sha256"
	"encoding/binary"
	"net/http"
	"runtime"
	"unsafe"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/index"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// lookAgain bounds how often a secret is looked for again while a key goes from
// one algorithm to another, which takes the writer microseconds.
const lookAgain = 1000

// identify finds the key of a credential, sets c.Record and what is particular
// to the secret, and returns Allowed; or the reason why there is none. A secret
// that was rotated away and has ended is no secret.
func (g *Gate) identify(s *State, r *http.Request, c *Call, text string) access.Reason {
	digest := s.Digester.Sum(text)
	c.mark = binary.BigEndian.Uint64(digest[:8])
	moves := s.Index.Moves()
	for tries := 0; !g.search(s, c, &digest, text); tries++ {
		if !s.Index.Moved(moves) || tries == lookAgain {
			return g.ask(s, r, c, text)
		}
		runtime.Gosched()
		moves = s.Index.Moves()
	}
	if c.Old && g.now().Unix() >= c.Sunset {
		c.Record, c.Old, c.Deprecated, c.Sunset = nil, false, 0, 0
		return access.Unknown
	}
	return access.Allowed
}

// search looks where the index finds secrets. The commonest are first.
func (g *Gate) search(s *State, c *Call, digest *[32]byte, text string) bool {
	if c.Record = s.Index.Lookup(digest); c.Record != nil {
		c.found, c.alg = c.mark, token.AlgHMAC
		return true
	}
	if p := s.Index.LookupPrevious(digest); p.Record != nil {
		c.previous(p)
		return true
	}
	if !s.Index.HasSHA256() {
		return false
	}
	sum := sha256.Sum256(unsafe.Slice(unsafe.StringData(text), len(text)))
	rec, p := s.Index.LookupSHA256(&sum)
	if rec == nil {
		return false
	}
	if p.Record != nil {
		c.previous(p)
		return true
	}
	c.Record, c.found, c.alg = rec, binary.BigEndian.Uint64(sum[:8]), token.AlgSHA256
	c.foreign = &foreign{token.AlgSHA256, sum, text}
	return true
}

func (c *Call) previous(p index.Previous) {
	c.Record, c.Old, c.Deprecated, c.Sunset = p.Record, true, p.Since, p.Until
	c.found, c.alg = p.Mark, p.Alg
}

// ask is the last resort for a text that no digest knows.
func (g *Gate) ask(s *State, r *http.Request, c *Call, text string) access.Reason {
	if s.Foreign == nil || s.Index.CountAlg(token.AlgImported) == 0 {
		return access.Unknown
	}
	c.Slow = true
	rec, busy := s.Foreign(r.Context(), text)
	switch {
	case busy:
		return access.Unavailable
	case rec == nil:
		return access.Unknown
	}
	c.Record, c.found, c.alg = rec, rec.Mark(), rec.Alg()
	if c.alg == token.AlgImported {
		c.foreign = &foreign{token.AlgImported, rec.Digest(), text}
	}
	return access.Allowed
}

// learn asks about a text that no record of ours knows.
func (g *Gate) learn(r *http.Request, c *Call, text string) access.Reason {
	rec, busy := g.Learn(r.Context(), text)
	switch {
	case busy:
		return access.Unavailable
	case rec == nil:
		return access.Unknown
	}
	c.Record, c.found, c.alg = rec, rec.Mark(), rec.Alg()
	return access.Allowed
}

// foreign is a present secret that is known by another digest than ours. The
// text is not kept past Decide, and no way of printing a Call shows it.
type foreign struct {
	alg  uint8
	was  [32]byte
	text string
}

// adopt tells of a foreign secret that was let in.
func (c *Call) adopt(s *State) {
	if c.Reason == access.Allowed && s.Adopt != nil {
		s.Adopt(c.Record, c.foreign.alg, c.foreign.was, token.Wrap(c.foreign.text))
	}
	c.foreign = nil
}

// Proof is what a request was let in with. Whoever keeps a request going for
// long asks it whether the request would still be let in.
type Proof struct {
	ID     access.KeyID
	Tenant string
	mark   uint64 // of the secret's own digest
	found  uint64 // of the digest that was found
	alg    uint8  // of that
}

// Proof returns what the request was let in with; the zero Proof, which is
// never good, if it has no key.
func (c *Call) Proof() Proof {
	if c.Record == nil {
		return Proof{}
	}
	p := Proof{ID: c.Record.ID, mark: c.mark, found: c.found, alg: c.alg}
	if c.Tenant != nil {
		p.Tenant = c.Tenant.ID
	}
	return p
}

// Good reports whether the key, its tenant and the secret are what they must
// be at the unix second now. rec is what x.ByID returned for p.ID. Permissions
// and addresses were for the request's beginning and are not looked at.
func (p *Proof) Good(x *index.Index, rec *index.Record, now int64) bool {
	if rec == nil || rec.Status() != access.StatusActive {
		return false
	}
	if at := rec.Expires(); at != 0 && now >= at {
		return false
	}
	if t := x.Tenant(rec); t == nil || t.Status != access.StatusActive {
		return false
	}
	switch alg := rec.Alg(); {
	case alg == token.AlgHMAC && rec.Mark() == p.mark:
		return true
	case alg == p.alg && alg != token.AlgHMAC && rec.Mark() == p.found:
		return true
	}
	before := x.PreviousOf(p.ID)
	if before.Record == nil || now >= before.Until {
		return false
	}
	return before.Mark == p.mark && before.Alg == token.AlgHMAC || before.Mark == p.found && before.Alg == p.alg
}
