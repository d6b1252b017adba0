package period

import "time"

const daySeconds = 24 * 60 * 60

// date is a day of the calendar, counted from 1 January 1970.
type date int64

func dateOf(t time.Time) date {
	y, m, d := t.Date()
	return civil(y, m, d)
}

// civil returns a date; months and days out of range run over.
func civil(y int, m time.Month, d int) date {
	return date(time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix() / daySeconds)
}

func (d date) civil() (y int, m time.Month, day int) {
	return time.Unix(int64(d)*daySeconds, 0).UTC().Date()
}

// floor returns the date on which the period that d is in starts.
func (p Period) floor(d date) date {
	switch p.Kind {
	case Week:
		return d - date(mod(int64(d)+3, 7)) // 1 January 1970 was a Thursday
	case Month:
		y, m, _ := d.civil()
		if start := p.month(y, m); start <= d {
			return start
		}
		return p.month(y, m-1)
	}
	return d
}

// next returns the date after d, itself a start, on which a period starts.
func (p Period) next(d date) date {
	switch p.Kind {
	case Week:
		return d + 7
	case Month:
		y, m, _ := d.civil()
		return p.month(y, m+1)
	}
	return d + 1
}

// month returns the date on which a month's period starts.
func (p Period) month(y int, m time.Month) date {
	first, last := civil(y, m, 1), civil(y, m+1, 1)-1
	return min(first+date(min(max(p.Anchor, 1), 31))-1, last)
}

// start returns the instant at which d starts in a zone.
func (d date) start(zone *time.Location) time.Time {
	wall := int64(d) * daySeconds
	// Offsets go from -16 to +16 hours, so whatever the zone does to this
	// midnight shows in these two.
	before, after := offset(wall-16*3600, zone), offset(wall+16*3600, zone)
	first, second := wall-before, wall-after
	if second < first {
		first, second = second, first
	}
	for _, u := range [2]int64{first, second} {
		if u+offset(u, zone) == wall {
			return time.Unix(u, 0).In(zone)
		}
	}
	// No clock shows it: it is skipped at a change between the two.
	return time.Unix(change(first, second, zone), 0).In(zone)
}

func offset(unix int64, zone *time.Location) int64 {
	_, seconds := time.Unix(unix, 0).In(zone).Zone()
	return int64(seconds)
}

// change returns the first instant after a, up to b, with the offset of b. The
// zone changes once between them. (Time.ZoneBounds is no help: beyond a zone's
// list of changes it takes the ends of years for changes, and in leap years
// misses them by a day.)
func change(a, b int64, zone *time.Location) int64 {
	for last := offset(b, zone); b-a > 1; {
		if middle := a + (b-a)/2; offset(middle, zone) == last {
			b = middle
		} else {
			a = middle
		}
	}
	return b
}
