package credit

import (
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// Ledger charges purses. It is safe for concurrent use.
type Ledger struct {
	slots   Slots
	now     func() time.Time
	tenants cache[string]
	keys    cache[access.KeyID]
}

// Options are what a ledger works with.
type Options struct {
	Slots Slots
	Now   func() time.Time // default: time.Now
	Keep  int              // purses of each kind kept while nobody has them; default 65536
}

// New returns a ledger. No two may work on the same slots at once.
func New(o Options) *Ledger {
	l := &Ledger{slots: o.Slots, now: o.Now}
	if l.now == nil {
		l.now = time.Now
	}
	if o.Keep <= 0 {
		o.Keep = 1 << 16
	}
	l.tenants.init(o.Keep)
	l.keys.init(o.Keep)
	return l
}

// Purse returns the purse of a tenant. It does no I/O.
func (l *Ledger) Purse(tenant string) *Purse {
	if p := l.tenants.get(tenant); p != nil {
		return p
	}
	return l.tenants.put(tenant, &Purse{slots: l.slots, owner: tenantSubject(tenant)})
}

// KeyPurse returns the purse of a key. It does no I/O.
func (l *Ledger) KeyPurse(key access.KeyID) *Purse {
	if p := l.keys.get(key); p != nil {
		return p
	}
	return l.keys.put(key, &Purse{slots: l.slots, owner: keySubject(key)})
}

// seconds returns the time as a unix second from 1970 to 9999.
func (l *Ledger) seconds() int64 { return inRange(l.now().Unix()) }

func inRange(second int64) int64 { return min(max(second, 1), maxUnix) }
