package credit

import (
	"crypto/sha256"
	"runtime/debug"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/counter"
	"github.com/keytoll/keytoll/caddymodule/internal/period"
)

// Slots holds the counters of all accounts.
type Slots interface {
	// Slot returns the counter of an id, a new one of zeros if there is none.
	// It returns the same counter each time, which may be in room. Safe for
	// concurrent use.
	Slot(id [16]byte, room *Room) (Slot, error)
	// Guard is deferred with the result of debug.SetPanicOnFault(true) by
	// functions that use slots. It restores that setting, and makes an error
	// of a panic that says that a slot's memory is not there.
	Guard(old bool, err *error)
}

// Room is memory for a Slot beside what uses it.
type Room = counter.Slot

// Slot is one counter. The ledger writes it under its purse's lock, and nobody
// else may. Each method is atomic; a crash leaves all of it or nothing.
type Slot interface {
	Period() int64  // start of the period, as stored by Turn; 0 at first
	Used() int64    // in the period
	Carried() int64 // added from the period before
	Leased() int64  // Used may go up to here and be durable

	// Add adds to Used and returns the sum. It returns an error, and changes
	// nothing, if an int64 does not hold it.
	Add(delta int64) (int64, error)
	// Spend is Add for an amount with which Used stays within most and Carried.
	// It reports whether it did that, and changes nothing else. Neither number
	// is below zero; from a Used that is, nothing is spent.
	Spend(amount, most int64) bool
	// SetCarried sets Carried.
	SetCarried(carried int64)
	// Turn sets Period, Used and Carried at once and ends the lease.
	Turn(period, used, carried int64) error
	// Lease makes durable that Used may go up to upTo: after it returned nil,
	// no crash and no power cut brings Used below what was used up to there.
	Lease(upTo int64) error
}

// guard is to be deferred as Slots.Guard is. The compiler knows that it does
// not keep err, which saves an allocation.
func guard(slots Slots, old bool, err *error) {
	if fault := recover(); fault != nil {
		*err = judge(slots, old, fault)
		return
	}
	debug.SetPanicOnFault(old)
}

// judge panics again, unless the slots have an error for it.
func judge(slots Slots, old bool, fault any) (err error) {
	defer slots.Guard(old, &err)
	panic(fault)
}

// Kinds of subjects and of accounts, as they go into ids. They are stored:
// never change one.
const (
	ofTenant = 't'
	ofKey    = 'k'

	forCredits = 'c'
	forGrant   = 'g'
	// for quotas, '0' and the Meter
)

// subject is whom accounts belong to.
type subject struct {
	kind byte
	name string
}

func tenantSubject(id string) subject      { return subject{ofTenant, id} }
func keySubject(id access.KeyID) subject   { return subject{ofKey, string(id[:])} }
func meterCode(m Meter) byte               { return '0' + byte(m) }
func kindCode(k period.Kind) (code []byte) { return []byte{byte(k)} }

// accountID returns the id of a subject's account: half of a SHA-256, so that
// nobody can choose names that share one.
func (s subject) accountID(what byte, which []byte) [16]byte {
	b := make([]byte, 0, 128)
	b = append(b, "keytoll account 1\x00"...)
	b = append(b, s.kind, what, byte(len(which)))
	b = append(b, which...)
	b = append(b, s.name...)
	sum := sha256.Sum256(b)
	return [16]byte(sum[:16])
}
