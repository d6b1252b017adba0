package engine

import (
	"crypto/rand"
	"hash/maphash"
	"sync"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// ReportPrefix is what a capability to report a running cost starts with. Its
// form is that of a key, so whoever hides keys can hide it.
const ReportPrefix = "rc_"

// Bounds of the requests that can report at one time.
const (
	reportShards   = 64
	reportsInShard = 1 << 14
)

// Reported is what became of a report.
type Reported uint8

// What becomes of reports.
const (
	ReportTaken     Reported = iota
	ReportOver               // the request has ended
	ReportExhausted          // it was charged, and is more than there is
	ReportRefused            // the amount cannot be counted
	ReportFailed             // it could not be written now
)

// Reporter is a request whose running cost can be reported. Report takes the
// total so far, from 0 to access.MaxCredits. If there is not enough, needed is the
// highest that was reported and available how much there was for the request.
type Reporter interface {
	Report(total access.Credits) (r Reported, needed, available access.Credits)
}

// Reports is the requests under way whose running cost can be reported, by
// their capabilities. It outlives reloads. It is safe for concurrent use.
type Reports struct{ shards [reportShards]reportShard }

type reportShard struct {
	mu sync.Mutex
	by map[string]Reporter
	_  [48]byte // shards in cache lines of their own
}

// reportSeed spreads capabilities over the shards.
var reportSeed = maphash.MakeSeed()

func (r *Reports) shard(capability string) *reportShard {
	return &r.shards[maphash.String(reportSeed, capability)%reportShards]
}

// Open makes a capability for a request, which nobody can guess, good until
// Close. ok is false when there are about a million already.
func (r *Reports) Open(by Reporter) (capability string, ok bool) {
	secret, err := token.Mint(ReportPrefix, rand.Reader)
	if err != nil {
		return "", false
	}
	capability = secret.Reveal()
	s := r.shard(capability)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.by) >= reportsInShard {
		return "", false
	}
	if s.by == nil {
		s.by = make(map[string]Reporter)
	}
	s.by[capability] = by
	return capability, true
}

// Find returns the request of a capability, or nil.
func (r *Reports) Find(capability string) Reporter {
	s := r.shard(capability)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.by[capability]
}

// Close ends a capability. A report that has found its request may still come
// to it.
func (r *Reports) Close(capability string) {
	s := r.shard(capability)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.by, capability)
}

// Count returns how many requests can report.
func (r *Reports) Count() (n int) {
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		n += len(s.by)
		s.mu.Unlock()
	}
	return n
}
