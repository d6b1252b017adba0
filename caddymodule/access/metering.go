package access

import "time"

// Override replaces parts of a plan for one tenant or key. A zero field is the
// plan's.
type Override struct {
	Rate       Rate    // of each key
	Credits    Credits // of each of the plan's periods
	Concurrent uint32  // requests at once: of the key, or of all keys of the tenant
	MaxKeys    uint32  // of a tenant
	Until      int64   // unix second from which the plan's hold again; 0 is for ever
}

// In reports whether the override holds at a unix second. It may be nil.
func (o *Override) In(now int64) bool { return o != nil && (o.Until == 0 || now < o.Until) }

// Bounds of grants.
const (
	MaxGrants = 100 // that a tenant may have at once
	MaxNote   = 200 // bytes of a grant's note
)

// Grant is credits that a tenant has beside those of its plan.
type Grant struct {
	ID        string // gr_ and 16 letters or digits
	Amount    Credits
	Expires   int64  // unix second from which what is left of it is gone; 0 is never
	Note      string // for people; at most MaxNote bytes
	CreatedAt time.Time
}

// CheckNote says what is wrong with the note of a grant, or nil.
func CheckNote(s string) error { return checkText("note", s, MaxNote) }
