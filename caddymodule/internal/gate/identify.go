package gate

import (
	"crypto/sha256"
	"encoding/binary"
	"net/http"
	"unsafe"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/index"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// identify finds the key of a credential, sets c.Record and what is particular
// to the secret, and returns Allowed; or the reason why there is none.
//
// A key that goes from one algorithm to another may be missed by who looks under
// the new one before and under the old one after. So no secret is refused that
// was looked for beside such a move: it is looked for again while nothing moves.
func (g *Gate) identify(s *State, r *http.Request, c *Call, text string) access.Reason {
	digest := s.Digester.Sum(text)
	c.mark = binary.BigEndian.Uint64(digest[:8])
	moves := s.Index.Moves()
	reason, known := g.recall(s, c, &digest, text)
	if reason != access.Allowed && s.Index.Moved(moves) {
		s.Index.Still(func() {
			moves = s.Index.Moves()
			reason, known = g.recall(s, c, &digest, text)
		})
	}
	if known {
		return reason
	}
	// Who is asked knows the keys that only a slow hash knows, until they move.
	if reason = g.ask(s, r, c, text); reason != access.Allowed && s.Index.Moved(moves) {
		s.Index.Still(func() {
			if again, known := g.recall(s, c, &digest, text); known {
				reason = again
			}
		})
	}
	return reason
}

// recall looks for a secret and reports whether a digest knows it. If so the
// reason is Allowed, but for a secret that was rotated away and has ended, which
// is no secret.
func (g *Gate) recall(s *State, c *Call, digest *[32]byte, text string) (reason access.Reason, known bool) {
	if !g.search(s, c, digest, text) {
		return access.Unknown, false
	}
	if c.Old && g.now().Unix() >= c.Sunset {
		c.Record, c.Old, c.Deprecated, c.Sunset = nil, false, 0, 0
		return access.Unknown, true
	}
	return access.Allowed, true
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
	good := p.is(rec.Alg(), rec.Mark())
	if !good { // it was rotated away, or is just becoming ours
		x.Still(func() {
			before := x.PreviousOf(p.ID)
			good = p.is(rec.Alg(), rec.Mark()) || before.Record != nil && now < before.Until && p.is(before.Alg, before.Mark)
		})
	}
	return good
}

// is reports whether a digest is of the secret that was let in.
func (p *Proof) is(alg uint8, mark uint64) bool {
	if alg == token.AlgHMAC {
		return mark == p.mark
	}
	return alg == p.alg && mark == p.found
}
