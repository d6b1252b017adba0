package access

import (
	"strings"
	"testing"
	"time"
)

func TestParseRate(t *testing.T) {
	for in, want := range map[string]Rate{
		"100/1m":      {100, 100, time.Minute},
		"5/s":         {5, 5, time.Second},
		"1/1d":        {1, 1, 24 * time.Hour},
		"1/366d":      {1, 1, MaxWindow},
		"7/1h30m":     {7, 7, 90 * time.Minute},
		"1000/1ms":    {1000, 1000, time.Millisecond},
		"1000000/1s":  {1_000_000, 1_000_000, time.Second},
		"3/250ms":     {3, 3, 250 * time.Millisecond},
		"60000/1m":    {60000, 60000, time.Minute},
		"86400000/1d": {86_400_000, 86_400_000, 24 * time.Hour},
	} {
		got, err := ParseRate(in)
		if err != nil || got != want {
			t.Errorf("%s: %v, %v", in, got, err)
		}
		again, err := ParseRate(got.String())
		if err != nil || again != got {
			t.Errorf("%s is written %s, which is read as %v, %v", in, got, again, err)
		}
	}
}

func TestParseRateRefuses(t *testing.T) {
	for _, in := range []string{
		"", "100", "/1m", "100/", "0/1m", "-1/1m", "+1/1m", "1.5/1m", "NaN/1m", "Inf/1s", "1e3/1m", "100/0s", "100/-1m", "100/1x",
		"4294967296/1m", "1000000001/366d", "1000001/1s", "1/367d", "1/1us", "1/0d", "1/-1d", "1/999999999h", " 1/1m", "1/1m burst 2", "0x10/1m",
		"1/ms1", "1/NaN", "99999999999999999999/1m",
	} {
		if r, err := ParseRate(in); err == nil {
			t.Errorf("%q was read as %v", in, r)
		}
	}
	r, _ := ParseRate("1/1d")
	for _, burst := range []string{"", "0", "-1", "4000", "1.5", "NaN", "9999999999"} {
		if r, err := r.WithBurst(burst); err == nil {
			t.Errorf("burst %q was read as %v", burst, r)
		}
	}
}

// A bucket must never give more than the rate, so the time between two
// requests is rounded up.
func TestIntervalNeverGivesMoreThanTheRate(t *testing.T) {
	for _, in := range []string{"7/1m", "3/1s", "999999/1s", "13/1d", "1000000/1s"} {
		r, err := ParseRate(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Interval() * time.Duration(r.Requests); got < r.Window || got-r.Window >= time.Duration(r.Requests) {
			t.Errorf("%s: %d intervals of %s are %s", in, r.Requests, r.Interval(), got)
		}
	}
}

func FuzzParseRate(f *testing.F) {
	f.Add("100/1m", "20")
	f.Add("1/366d", "0")
	f.Fuzz(func(t *testing.T, s, burst string) {
		r, err := ParseRate(s)
		if err != nil {
			return
		}
		if b, err := r.WithBurst(burst); err == nil {
			r = b
		}
		if err := r.Validate(); err != nil {
			t.Errorf("%q: %v", s, err)
		}
		if r.Interval() < time.Microsecond || r.Interval()*time.Duration(r.Burst) <= 0 {
			t.Errorf("%q: interval %s, burst %d", s, r.Interval(), r.Burst)
		}
	})
}

func TestKeyID(t *testing.T) {
	const text = "key_0123456789abcXYZ"
	id, err := ParseKeyID(text)
	if err != nil || id.String() != text || string(id.AppendTo(nil)) != text {
		t.Fatal(id, err)
	}
	for _, bad := range []string{"", "key_", text[:19], text + "0", "KEY_0123456789abcXYZ", "key_0123456789abcXY/", "key_0123456789abcX\x00Z", "../../../../../etc/x"} {
		if id, err := ParseKeyID(bad); err == nil || id != (KeyID{}) {
			t.Errorf("%q was read as %v", bad, id)
		}
	}
}

func TestNames(t *testing.T) {
	for _, ok := range []string{"acme", "A", "org_12.3-x", strings.Repeat("a", MaxTenantID)} {
		if err := CheckTenantID(ok); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "-a", ".a", "_a", "a b", "a/b", "a\r\nb", "a\x00", "ä", "..", strings.Repeat("a", MaxTenantID+1)} {
		if CheckTenantID(bad) == nil {
			t.Errorf("tenant id %q passes", bad)
		}
	}
	if err := CheckName("Acme, Inc. – Zürich 🙂"); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"a\nb", "a\x00", "\x1b[31m", "\x7f", "a\u2028b", "\xff", strings.Repeat("a", MaxName+1), "a\u0085"} {
		if CheckName(bad) == nil {
			t.Errorf("name %q passes", bad)
		}
	}
	for _, bad := range []map[string]string{{"": "x"}, {"a": "b\n"}, {strings.Repeat("k", MaxMetaKey+1): ""}, {"k": strings.Repeat("v", MaxMetaVal+1)}} {
		if CheckMetadata(bad) == nil {
			t.Errorf("metadata %q passes", bad)
		}
	}
	for _, bad := range []string{"", "a b", "a,b", `a"b`, "ä", strings.Repeat("p", 65)} {
		if CheckPermission(bad) == nil {
			t.Errorf("permission %q passes", bad)
		}
	}
}

// Every reason that refuses has a status and a code, and no two reasons share a
// metric label.
func TestReasonTable(t *testing.T) {
	labels := make(map[string]bool)
	for i := range NumReasons {
		r := Reason(i)
		a := r.Answer()
		if a.Label == "" || labels[a.Label] {
			t.Errorf("reason %d: label %q", i, a.Label)
		}
		labels[a.Label] = true
		if r.LetsIn() != (a.Status == 0) || r.LetsIn() != (a.Code == "") {
			t.Errorf("%s: %+v", r, a)
		}
		if a.Status == 401 != (a.Challenge == ChallengeBare || a.Challenge == ChallengeInvalidToken) {
			t.Errorf("%s: a 401, and only a 401, says which credential is wanted", r)
		}
	}
	for _, r := range []Reason{Malformed, Unknown, Revoked, Disabled, Suspended, Expired} {
		a := *r.Answer()
		a.Label = Unknown.Answer().Label
		if a != *Unknown.Answer() {
			t.Errorf("%s can be told from an unknown key", r)
		}
	}
}

func TestStatus(t *testing.T) {
	for _, s := range []Status{StatusActive, StatusDisabled, StatusRevoked, StatusSuspended} {
		if got, err := ParseStatus(s.String()); err != nil || got != s {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	if _, err := ParseStatus(""); err == nil || Status(0).String() != "unknown" {
		t.Error("no status is one")
	}
}
