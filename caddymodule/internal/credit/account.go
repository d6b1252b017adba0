package credit

import (
	"math"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/period"
)

// maxUnix is the end of the year 9999: clocks beyond it stand still.
const maxUnix = 253402300799

// account is a slot and what is known about its period. Its purse's lock
// guards it.
type account struct {
	slot Slot
	room Room

	by    period.Period // what until was reckoned by
	until int64         // the second in which the next period starts

	// Of an allowance with Add: the period right before, and what it left.
	before int64 // its start; 0 if that is not known
	unused int64 // may be below zero
	most   int64 // of unused that is carried over
}

// used returns the slot's count. Below zero it is damaged and might be anything:
// then the account is full, until its next period.
func (a *account) used() int64 {
	if n := a.slot.Used(); n >= 0 {
		return n
	}
	return math.MaxInt64
}

func (a *account) carried() int64 {
	return min(max(a.slot.Carried(), 0), int64(access.MaxCredits))
}

// turn opens the period that now is in, unless the account is in that or a
// later one. most is what may be carried over from the period before.
func (a *account) turn(now int64, by period.Period, most int64) error {
	if a.by == by && now < a.until {
		return nil
	}
	if by.Endless() {
		a.by, a.until = by, math.MaxInt64
		return nil
	}
	start, end := bounds(by, now)
	if current := a.slot.Period(); current != 0 {
		if first, last := home(by, current); start <= first {
			a.by, a.until = by, last
			return nil
		}
	}
	before, unused := a.left(by, start, most)
	if err := a.slot.Turn(start, 0, min(max(unused, 0), most)); err != nil {
		return err
	}
	a.by, a.until, a.before, a.unused, a.most = by, end, before, unused, most
	return nil
}

// left returns what the period right before start has left of an allowance of
// most, and the start of that period if its account is still this one.
func (a *account) left(by period.Period, start, most int64) (before, unused int64) {
	current := a.slot.Period()
	if most == 0 || current == 0 {
		return 0, 0
	}
	previous, _ := bounds(by, start-1)
	if first, _ := home(by, current); first < previous {
		return 0, most
	}
	return current, most + a.carried() - a.used()
}

// giveBack takes off what was added in a period.
func (a *account) giveBack(amount, period int64) error {
	switch current := a.slot.Period(); {
	case current == period:
		_, err := a.slot.Add(-amount)
		return err
	case period != 0 && a.before == period:
		a.unused += amount
		a.slot.SetCarried(min(max(a.unused, 0), a.most))
	}
	return nil
}

// home returns the period that an account is in that was opened for one that
// starts at current. Terms that changed may cut time elsewhere: if another time
// zone puts a start off by hours, that is the same start and no new period.
func home(by period.Period, current int64) (start, end int64) {
	start, end = bounds(by, current)
	if end-current < slack[by.Kind] {
		return bounds(by, end)
	}
	return start, end
}

// slack is by less than which the start of a period may be put off, in seconds:
// by what two zones differ at most, or for days, which are hardly longer, by
// most of what they do. No two days in one zone begin that close to one another.
var slack = [...]int64{period.Day: 15 * 3600, period.Week: 27 * 3600, period.Month: 27 * 3600}

// bounds returns the period that the second now is in. Before 1970 all is one
// period, which starts in second 1: 0 is for accounts without a period.
func bounds(by period.Period, now int64) (start, end int64) {
	from, to := by.Bounds(time.Unix(min(max(now, 1), maxUnix), 0))
	return max(from.Unix(), 1), to.Unix()
}

// resets returns the end of the account's period; zero if it has none.
func (a *account) resets() time.Time {
	if a.until > maxUnix {
		return time.Time{}
	}
	return time.Unix(a.until, 0).UTC()
}
