package engine

import (
	"strconv"
	"strings"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/access"
)

type noReporter struct{}

func (noReporter) Report(access.Credits) (r Reported, needed, available access.Credits) { return }

func TestReports(t *testing.T) {
	var r Reports
	a, ok := r.Open(noReporter{})
	b, also := r.Open(noReporter{})
	if !ok || !also || a == b || !strings.HasPrefix(a, ReportPrefix) || r.Count() != 2 {
		t.Fatalf("%q, %q, %d", a, b, r.Count())
	}
	if r.Find(a) == nil || r.Find(b) == nil || r.Find(a+"x") != nil || r.Find("") != nil {
		t.Error("found what is not there, or not what is")
	}
	r.Close(a)
	r.Close(a)
	if r.Find(a) != nil || r.Find(b) == nil || r.Count() != 1 {
		t.Error("not closed, or too much")
	}
}

// The number of requests that can report is bounded.
func TestReportsAreBounded(t *testing.T) {
	var r Reports
	full := make(map[string]Reporter, reportsInShard)
	for i := range reportsInShard {
		full[strconv.Itoa(i)] = noReporter{}
	}
	for i := range r.shards {
		r.shards[i].by = full
	}
	if c, ok := r.Open(noReporter{}); ok || c != "" {
		t.Errorf("%q beyond the bound", c)
	}
	delete(full, "0")
	if _, ok := r.Open(noReporter{}); !ok {
		t.Error("no room where there is some")
	}
}
