package period

import (
	"archive/zip"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

func load(t testing.TB, name string) *time.Location {
	t.Helper()
	zone, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return zone
}

func TestBounds(t *testing.T) {
	for _, c := range []struct {
		kind           Kind
		anchor         int
		zone           string
		at, start, end string
	}{
		{Hour, 0, "UTC", "2026-11-21T08:59:59Z", "2026-11-21T08:00:00Z", "2026-11-21T09:00:00Z"},
		{Hour, 0, "Asia/Kolkata", "2026-11-21T08:29:59Z", "2026-11-21T07:30:00Z", "2026-11-21T08:30:00Z"},
		{Day, 0, "UTC", "2026-11-21T00:00:00Z", "2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z"},
		{Day, 0, "UTC", "1969-12-31T23:59:59Z", "1969-12-31T00:00:00Z", "1970-01-01T00:00:00Z"},
		// Clocks in Berlin: forward on 29 March, back on 25 October 2026.
		{Day, 0, "Europe/Berlin", "2026-03-29T12:00:00Z", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"},
		{Day, 0, "Europe/Berlin", "2026-10-25T12:00:00Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"},
		{Week, 0, "Europe/Berlin", "2026-03-29T21:59:59Z", "2026-03-22T23:00:00Z", "2026-03-29T22:00:00Z"},
		{Month, 1, "Europe/Berlin", "2026-03-31T22:00:00Z", "2026-03-31T22:00:00Z", "2026-04-30T22:00:00Z"},
		{Hour, 0, "Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z"},
		{Hour, 0, "Europe/Berlin", "2026-10-25T01:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z"},
		// New York: forward on 8 March, back on 1 November 2026.
		{Day, 0, "America/New_York", "2026-03-08T12:00:00Z", "2026-03-08T05:00:00Z", "2026-03-09T04:00:00Z"},
		{Day, 0, "America/New_York", "2026-11-01T12:00:00Z", "2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z"},
		{Month, 0, "America/New_York", "2026-11-15T00:00:00Z", "2026-11-01T04:00:00Z", "2026-12-01T05:00:00Z"},
		// A week over New Year, and its edges.
		{Week, 0, "UTC", "2027-01-01T00:00:00Z", "2026-12-28T00:00:00Z", "2027-01-04T00:00:00Z"},
		{Week, 0, "UTC", "2026-12-28T00:00:00Z", "2026-12-28T00:00:00Z", "2027-01-04T00:00:00Z"},
		{Week, 0, "UTC", "1970-01-01T00:00:00Z", "1969-12-29T00:00:00Z", "1970-01-05T00:00:00Z"},
		// Anchors that February is too short for, in leap years and others.
		{Month, 31, "UTC", "2026-02-15T00:00:00Z", "2026-01-31T00:00:00Z", "2026-02-28T00:00:00Z"},
		{Month, 31, "UTC", "2026-02-28T00:00:00Z", "2026-02-28T00:00:00Z", "2026-03-31T00:00:00Z"},
		{Month, 31, "UTC", "2028-02-28T00:00:00Z", "2028-01-31T00:00:00Z", "2028-02-29T00:00:00Z"},
		{Month, 31, "UTC", "2028-02-29T00:00:00Z", "2028-02-29T00:00:00Z", "2028-03-31T00:00:00Z"},
		{Month, 31, "UTC", "2026-04-30T00:00:00Z", "2026-04-30T00:00:00Z", "2026-05-31T00:00:00Z"},
		{Month, 30, "UTC", "2026-03-29T00:00:00Z", "2026-02-28T00:00:00Z", "2026-03-30T00:00:00Z"},
		{Month, 30, "UTC", "2100-03-01T00:00:00Z", "2100-02-28T00:00:00Z", "2100-03-30T00:00:00Z"},
		{Month, 29, "UTC", "2026-03-01T00:00:00Z", "2026-02-28T00:00:00Z", "2026-03-29T00:00:00Z"},
		{Month, 29, "UTC", "2000-02-29T00:00:00Z", "2000-02-29T00:00:00Z", "2000-03-29T00:00:00Z"},
		{Month, 15, "UTC", "2026-01-14T23:59:59Z", "2025-12-15T00:00:00Z", "2026-01-15T00:00:00Z"},
		// Midnight skipped; midnight twice; clock back over midnight; a date left out; half an hour.
		{Day, 0, "America/Sao_Paulo", "2018-11-04T12:00:00Z", "2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z"},
		{Day, 0, "America/Havana", "2026-11-01T12:00:00Z", "2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z"},
		{Day, 0, "America/St_Johns", "2005-10-30T02:45:00Z", "2005-10-30T02:30:00Z", "2005-10-31T03:30:00Z"},
		{Day, 0, "Pacific/Apia", "2011-12-30T09:59:59Z", "2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z"},
		{Day, 0, "Pacific/Apia", "2011-12-30T10:00:00Z", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z"},
		{Hour, 0, "Australia/Lord_Howe", "2026-04-04T15:10:00Z", "2026-04-04T15:00:00Z", "2026-04-04T15:30:00Z"},
	} {
		at, _ := time.Parse(time.RFC3339, c.at)
		start, end := Period{c.kind, c.anchor, load(t, c.zone)}.Bounds(at)
		if got := start.UTC().Format(time.RFC3339); got != c.start {
			t.Errorf("%v %d %s at %s starts at %s, not %s", c.kind, c.anchor, c.zone, c.at, got, c.start)
		}
		if got := end.UTC().Format(time.RFC3339); got != c.end {
			t.Errorf("%v %d %s at %s ends at %s, not %s", c.kind, c.anchor, c.zone, c.at, got, c.end)
		}
	}
}

var (
	from = time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC)
	to   = time.Date(2100, 12, 31, 0, 0, 0, 0, time.UTC)
)

// walk goes through all periods from one time to another, and checks that each
// starts where the one before ended, holds its own instants, and shows the
// clock that its kind promises.
func walk(t *testing.T, p Period, from, to time.Time, shows func(start time.Time) bool) {
	t.Helper()
	start, end := p.Bounds(from)
	if start.After(from) || !end.After(from) {
		t.Fatalf("%v: %s is not in [%s, %s)", p, from, start, end)
	}
	for n := 0; end.Before(to); n++ {
		length := end.Unix() - start.Unix()
		for _, at := range [...]time.Time{start, start.Add(time.Duration(length/2) * time.Second), end.Add(-1)} {
			if s, e := p.Bounds(at); !s.Equal(start) || !e.Equal(end) {
				t.Fatalf("%v: %s is in [%s, %s), but also in [%s, %s)", p, at, start, end, s, e)
			}
		}
		next, after := p.Bounds(end)
		if !next.Equal(end) || !after.After(next) {
			t.Fatalf("%v: [%s, %s) is followed by [%s, %s)", p, start, end, next, after)
		}
		if !shows(next) {
			t.Fatalf("%v: a period starts at %s", p, next)
		}
		start, end = next, after
	}
}

func midnight(t time.Time) bool { return t.Hour() == 0 && t.Minute() == 0 && t.Second() == 0 }

func TestTiles(t *testing.T) {
	for _, name := range []string{"UTC", "Europe/Berlin", "America/New_York"} {
		zone := load(t, name)
		// In these zones the clock never skips midnight.
		walk(t, Period{Day, 0, zone}, from, to, midnight)
		walk(t, Period{Week, 0, zone}, from, to, func(s time.Time) bool { return midnight(s) && s.Weekday() == time.Monday })
		for anchor := range 32 {
			walk(t, Period{Month, anchor, zone}, from, to, func(s time.Time) bool {
				last := time.Date(s.Year(), s.Month()+1, 0, 0, 0, 0, 0, time.UTC).Day()
				return midnight(s) && s.Day() == min(max(anchor, 1), last)
			})
		}
	}
}

func TestHoursTile(t *testing.T) {
	full := func(s time.Time) bool { return s.Minute() == 0 && s.Second() == 0 }
	for _, name := range []string{"Europe/Berlin", "America/New_York"} {
		p := Period{Hour, 0, load(t, name)}
		walk(t, p, from, to, func(s time.Time) bool { _, e := p.Bounds(s); return full(s) && e.Sub(s) == time.Hour })
		if testing.Short() {
			break
		}
	}
}

// In every zone that there is, hundreds of instants are in their periods,
// and the days near changes of the clock tile.
func TestAllZones(t *testing.T) {
	names := zones(t)
	random := rand.New(rand.NewPCG(3, 4))
	for _, name := range names {
		zone := load(t, name)
		for range 300 {
			at := time.Unix(random.Int64N(to.Unix()), 0)
			for _, p := range []Period{{Hour, 0, zone}, {Day, 0, zone}, {Week, 0, zone}, {Month, 1 + random.IntN(31), zone}} {
				start, end := p.Bounds(at)
				if at.Before(start) || !at.Before(end) {
					t.Fatalf("%v: %s is not in [%s, %s)", p, at, start, end)
				}
			}
		}
		any := func(time.Time) bool { return true }
		for change, n := from.In(zone), 0; n < 400; n++ {
			_, next := change.ZoneBounds()
			if !next.After(change) || next.Year() > 2040 {
				break
			}
			change = next
			walk(t, Period{Hour, 0, zone}, change.Add(-6*time.Hour), change.Add(6*time.Hour), any)
			walk(t, Period{Day, 0, zone}, change.Add(-72*time.Hour), change.Add(72*time.Hour), any)
		}
	}
}

// zones lists the zones that come with Go.
func zones(t *testing.T) (names []string) {
	r, err := zip.OpenReader(filepath.Join(runtime.GOROOT(), "lib", "time", "zoneinfo.zip"))
	if err != nil {
		t.Skip("no list of zones: ", err)
	}
	defer r.Close()
	for _, f := range r.File {
		if !strings.HasSuffix(f.Name, "/") && f.Name != "Factory" {
			if _, err := time.LoadLocation(f.Name); err == nil {
				names = append(names, f.Name)
			}
		}
	}
	if len(names) < 300 {
		t.Fatalf("only %d zones", len(names))
	}
	return names
}

func TestEndless(t *testing.T) {
	if start, end := (Period{}).Bounds(time.Now()); !start.IsZero() || !end.IsZero() || !(Period{}).Endless() {
		t.Errorf("[%s, %s)", start, end)
	}
}

func TestCheck(t *testing.T) {
	for _, p := range []Period{{}, {Kind: Hour}, {Kind: Month}, {Kind: Month, Anchor: 31}, {Kind: Week, Zone: time.UTC}} {
		if err := p.Check(); err != nil {
			t.Errorf("%v: %v", p, err)
		}
	}
	for _, p := range []Period{{Kind: 5}, {Kind: Day, Anchor: 1}, {Kind: Month, Anchor: 32}, {Kind: Month, Anchor: -1}, {Anchor: 3}} {
		if p.Check() == nil {
			t.Errorf("%v is let through", p)
		}
	}
}

func TestKinds(t *testing.T) {
	for _, k := range []Kind{Hour, Day, Week, Month} {
		if got, err := ParseKind(k.String()); err != nil || got != k {
			t.Errorf("%v: %v, %v", k, got, err)
		}
	}
	for _, s := range []string{"", "none", "year", "Month", "days"} {
		if k, err := ParseKind(s); err == nil {
			t.Errorf("%q was read as %v", s, k)
		}
	}
}

func BenchmarkBounds(b *testing.B) {
	p := Period{Month, 31, load(b, "Europe/Berlin")}
	at := time.Now()
	for b.Loop() {
		p.Bounds(at)
	}
}
