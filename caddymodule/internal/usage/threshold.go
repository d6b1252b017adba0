package usage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/bits"
	"sync"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// Percents are the shares of a limit that are told.
var Percents = [...]uint8{80, 90, 100}

// DefaultSubjects is how many a Thresholds remembers.
const DefaultSubjects = 100_000

// Subject is what a threshold is of.
type Subject struct {
	Tenant string
	Key    access.KeyID // zero for the tenant as a whole
	Limit  string       // which of its limits, such as "credits" or "requests/day"
}

// ThresholdEvent says that a share of a limit is used up.
type ThresholdEvent struct {
	Subject
	Percent uint8 // one of Percents
	Period  int64 // unix second in which the period began; 0 for what has none
	Used    int64
	Max     int64
}

// ThresholdOptions is what a Thresholds works with.
type ThresholdOptions struct {
	// Hook is told of each event, by the goroutine that checks: it must not block.
	// Required.
	Hook func(ThresholdEvent)
	// Storage remembers what was told over a restart; nil for none. It may be the
	// Recorder's.
	Storage Storage
	// Subjects is how many are remembered that used 80 % or more. If there are
	// others, some of an old period are forgotten, and told again if they come by.
	// Default: 100,000.
	Subjects int
}

// Thresholds tells once in each period of a subject that 80, 90 and 100 % of its
// limit are used up: also when the limit is raised and is reached again. What was
// told since the last Save is told again after a crash. It is safe for concurrent
// use.
type Thresholds struct {
	o     ThresholdOptions
	mu    sync.Mutex
	told  map[Subject]told
	dirty map[Subject]bool
}

type told struct {
	period int64
	level  uint8 // how many of Percents
}

// NewThresholds returns a Thresholds that remembers what o.Storage does. Errors:
// a missing hook, of the storage, and ErrDamaged.
func NewThresholds(ctx context.Context, o ThresholdOptions) (*Thresholds, error) {
	if o.Hook == nil || o.Subjects < 0 {
		return nil, errors.New("usage thresholds: there is no hook, or a bound below 0")
	}
	if o.Subjects == 0 {
		o.Subjects = DefaultSubjects
	}
	t := &Thresholds{o: o, told: make(map[Subject]told), dirty: make(map[Subject]bool)}
	if o.Storage == nil {
		return t, nil
	}
	var bad error
	err := o.Storage.Range(ctx, []byte{tagThreshold}, []byte{tagThreshold + 1}, func(k, v []byte) bool {
		s, ok := parseSubject(k)
		if !ok || len(v) != 9 || int(v[8]) > len(Percents) {
			bad = damaged(k)
			return false
		}
		if len(t.told) >= o.Subjects {
			t.forget()
		}
		t.told[s] = told{int64(be.Uint64(v)), v[8]}
		return true
	})
	if err = errors.Join(err, bad); err != nil {
		return nil, fmt.Errorf("reading usage thresholds: %w", err)
	}
	return t, nil
}

// Check tells what is new when a subject has used so much of a limit in the
// period that began at the unix second period. A limit of 0 or less has no
// shares, and a period before the newest one is past. It does not allocate unless
// there is something new.
func (t *Thresholds) Check(s Subject, period, used, limit int64) {
	level := levelOf(used, limit)
	if level == 0 {
		return
	}
	t.mu.Lock()
	was, known := t.told[s]
	if known && (was.period > period || was.period == period && was.level >= level) {
		t.mu.Unlock()
		return
	}
	if was.period != period {
		was.level = 0
	}
	if !known && len(t.told) >= t.o.Subjects {
		t.forget()
	}
	t.told[s] = told{period, level}
	t.dirty[s] = true
	t.mu.Unlock()
	for _, p := range Percents[was.level:level] {
		t.o.Hook(ThresholdEvent{s, p, period, used, limit})
	}
}

// Save makes durable what was told. After an error the next call tries again.
func (t *Thresholds) Save(ctx context.Context) error {
	t.mu.Lock()
	dirty := t.dirty
	t.dirty = make(map[Subject]bool)
	changes := make([]change, 0, len(dirty))
	for s := range dirty {
		c := change{key: appendSubject(nil, &s)}
		if v, ok := t.told[s]; ok {
			c.value = append(be.AppendUint64(nil, uint64(v.period)), v.level)
		}
		changes = append(changes, c)
	}
	t.mu.Unlock()
	if t.o.Storage == nil {
		return nil
	}
	err := apply(ctx, t.o.Storage, changes)
	if err != nil {
		t.mu.Lock()
		for s := range dirty {
			t.dirty[s] = true
		}
		t.mu.Unlock()
	}
	return err
}

// forget makes room: of a few subjects that come to hand the one with the oldest
// period goes.
func (t *Thresholds) forget() {
	var oldest Subject
	n := 0
	for s, v := range t.told {
		if n == 0 || v.period < t.told[oldest].period {
			oldest = s
		}
		if n++; n == 8 {
			break
		}
	}
	delete(t.told, oldest)
	t.dirty[oldest] = true
}

// levelOf returns how many of Percents are reached.
func levelOf(used, limit int64) uint8 {
	if limit <= 0 || used <= 0 {
		return 0
	}
	hi, lo := bits.Mul64(uint64(used), 100)
	for i, p := range Percents {
		h, l := bits.Mul64(uint64(limit), uint64(p))
		if hi < h || hi == h && lo < l {
			return uint8(i)
		}
	}
	return uint8(len(Percents))
}

func appendSubject(b []byte, s *Subject) []byte {
	b = append(append(append(b, tagThreshold), s.Tenant...), 0)
	return append(append(b, s.Key[:]...), s.Limit...)
}

func parseSubject(k []byte) (s Subject, ok bool) {
	tenant, rest, ok := bytes.Cut(k[1:], []byte{0})
	if !ok || len(rest) < len(s.Key) {
		return s, false
	}
	n := copy(s.Key[:], rest)
	s.Tenant, s.Limit = string(tenant), string(rest[n:])
	return s, true
}
