package period

import (
	"errors"
	"fmt"
	"time"
)

// Kind is the length of a period.
type Kind uint8

// The kinds. None is one period without end, for balances that never reset.
const (
	None Kind = iota
	Hour
	Day
	Week // from Monday
	Month
	numKinds
)

var kindNames = [numKinds]string{"none", "hour", "day", "week", "month"}

// ParseKind reads hour, day, week or month. None cannot be written: it is
// what is meant when no period is given.
func ParseKind(s string) (Kind, error) {
	for k := Hour; k < numKinds; k++ {
		if kindNames[k] == s {
			return k, nil
		}
	}
	return None, fmt.Errorf("%q is not a period: want hour, day, week or month", s)
}

// String returns the lower-case word for k, or "invalid".
func (k Kind) String() string {
	if k >= numKinds {
		return "invalid"
	}
	return kindNames[k]
}

// Period is a way to cut time. The zero value never cuts it. Values are equal
// if they cut alike, but for names of one zone loaded twice.
type Period struct {
	Kind   Kind
	Anchor int            // of months: the day they start on, 1 to 31; 0 means 1
	Zone   *time.Location // nil means UTC
}

// Check says what is wrong with p, or nil.
func (p Period) Check() error {
	switch {
	case p.Kind >= numKinds:
		return errors.New("no such kind of period")
	case p.Anchor != 0 && p.Kind != Month:
		return errors.New("only months have a day that they start on")
	case p.Anchor < 0 || p.Anchor > 31:
		return fmt.Errorf("a month starts on a day from 1 to 31, not %d", p.Anchor)
	}
	return nil
}

// Endless reports whether p is one period without end.
func (p Period) Endless() bool { return p.Kind == None }

// Bounds returns the period that t is in: start ≤ t < end, both in p's zone
// and in whole seconds. If p is endless, both are the zero time. An anchor out
// of range means the nearest that is in it.
func (p Period) Bounds(t time.Time) (start, end time.Time) {
	if p.Kind == None || p.Kind >= numKinds {
		return time.Time{}, time.Time{}
	}
	zone := p.Zone
	if zone == nil {
		zone = time.UTC
	}
	t = t.In(zone)
	if p.Kind == Hour {
		return hour(t)
	}
	// The date's own period, or a neighbour of it: clocks that are put back
	// over midnight show a date again after the next one has started.
	d := p.floor(dateOf(t))
	start, end = d.start(zone), p.next(d).start(zone)
	for t.Before(start) {
		d = p.floor(d - 1)
		start, end = d.start(zone), start
	}
	for !t.Before(end) {
		d = p.next(d)
		start, end = end, p.next(d).start(zone)
	}
	return start, end
}

// hour returns the hour that t is in, by t's zone.
func hour(t time.Time) (start, end time.Time) {
	zone, now := t.Location(), t.Unix()
	shown := offset(now, zone)
	from := now - mod(now+shown, 3600)
	to := from + 3600
	if offset(from, zone) != shown {
		from = change(from, now, zone)
	}
	if offset(to-1, zone) != shown {
		to = change(now, to-1, zone)
	}
	return time.Unix(from, 0).In(zone), time.Unix(to, 0).In(zone)
}

func mod(a, b int64) int64 { return (a%b + b) % b }
