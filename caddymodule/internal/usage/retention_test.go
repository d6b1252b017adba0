package usage

import (
	"testing"
	"time"
)

// Another retention holds from the next Trim on, and one that is none changes
// nothing.
func TestRetentionChanges(t *testing.T) {
	m, c := newMemory(), newClock()
	o := c.options(m)
	o.Retain = Retention{72 * time.Hour, 240 * time.Hour, 2400 * time.Hour}
	r := open(t, o)
	record(r, c.at(), series("acme", 1, "", Class2xx), Sample{})
	tick := func() (minutes, hours int) {
		t.Helper()
		for range 10 {
			check(t, r.Tick(t.Context()))
		}
		return m.count(tagMinute), m.count(tagHour)
	}
	check(t, r.Flush(t.Context()))
	c.pass(6 * time.Hour)
	if minutes, hours := tick(); minutes != 1 || hours != 1 {
		t.Fatalf("%d minutes, %d hours", minutes, hours)
	}
	for _, bad := range []Retention{{}, {time.Hour, 240 * time.Hour, 2400 * time.Hour}, {2 * time.Hour, 3 * time.Hour, 2400 * time.Hour}} {
		if r.SetRetention(bad) == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
	if minutes, _ := tick(); minutes != 1 {
		t.Fatal("a retention that is none deletes")
	}
	check(t, r.SetRetention(Retention{5 * time.Hour, 240 * time.Hour, 2400 * time.Hour}))
	if minutes, hours := tick(); minutes != 0 || hours != 1 {
		t.Errorf("%d minutes, %d hours", minutes, hours)
	}
	if v := total(t, r, Filter{}, Hour); v.Requests != 1 {
		t.Errorf("%+v", v)
	}
}
