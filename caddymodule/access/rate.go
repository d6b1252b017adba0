package access

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Bounds of a rate. They keep the token bucket exact: the time between two
// tokens is at least a microsecond and a full bucket is at most ten years.
const (
	MaxRequests   = 1_000_000_000
	MaxPerSecond  = 1_000_000
	MaxWindow     = 366 * 24 * time.Hour
	maxBucketSpan = 10 * 366 * 24 * time.Hour
)

// Rate is a token bucket: it holds Burst requests and gains Requests over each
// Window.
type Rate struct {
	Requests uint32
	Burst    uint32        // capacity; equals Requests unless set
	Window   time.Duration // at least a millisecond
}

// IsZero reports whether r is no rate at all.
func (r Rate) IsZero() bool { return r == Rate{} }

// Interval returns the time in which one request is regained, rounded up to a
// whole nanosecond so that a bucket never gives more than the rate.
func (r Rate) Interval() time.Duration {
	n := time.Duration(r.Requests)
	return (r.Window + n - 1) / n
}

// Validate says what is wrong with r, or nil. The zero rate is not valid.
func (r Rate) Validate() error {
	switch {
	case r.Requests == 0:
		return errors.New("a rate needs at least 1 request per window")
	case r.Requests > MaxRequests || r.Burst > MaxRequests:
		return fmt.Errorf("a rate holds at most %d requests", MaxRequests)
	case r.Burst == 0:
		return errors.New("a burst needs at least 1 request")
	case r.Window < time.Millisecond || r.Window > MaxWindow:
		return fmt.Errorf("a window lasts from 1ms to 366d, not %s", r.Window)
	case float64(r.Requests)/r.Window.Seconds() > MaxPerSecond:
		return fmt.Errorf("a rate is at most %d requests a second", MaxPerSecond)
	case float64(r.Burst)*float64(r.Interval()) > float64(maxBucketSpan):
		return errors.New("a bucket that takes more than ten years to fill is no limit: lower the burst or raise the rate")
	}
	return nil
}

// String writes the form that ParseRate reads, with the burst where it differs.
func (r Rate) String() string {
	s := strconv.FormatUint(uint64(r.Requests), 10) + "/" + formatWindow(r.Window)
	if r.Burst != r.Requests {
		s += " burst " + strconv.FormatUint(uint64(r.Burst), 10)
	}
	return s
}

// ParseRate reads "<n>/<window>", such as 100/1m, 5/s or 1000/1d. The burst
// equals the requests; set another with WithBurst.
func ParseRate(s string) (Rate, error) {
	n, w, ok := strings.Cut(s, "/")
	if !ok {
		return Rate{}, fmt.Errorf("%q is not a rate: want <requests>/<window>, such as 100/1m", s)
	}
	req, err := parseCount(n)
	if err != nil {
		return Rate{}, fmt.Errorf("rate %q: %w", s, err)
	}
	window, err := ParseWindow(w)
	if err != nil {
		return Rate{}, fmt.Errorf("rate %q: %w", s, err)
	}
	r := Rate{Requests: req, Burst: req, Window: window}
	if err := r.Validate(); err != nil {
		return Rate{}, fmt.Errorf("rate %q: %w", s, err)
	}
	return r, nil
}

// WithBurst returns r with the capacity written in s.
func (r Rate) WithBurst(s string) (Rate, error) {
	n, err := parseCount(s)
	if err != nil {
		return Rate{}, fmt.Errorf("burst %q: %w", s, err)
	}
	r.Burst = n
	return r, r.Validate()
}

// ParseWindow reads a duration with the units ms, s, m, h and d; a bare unit
// means one of it.
func ParseWindow(s string) (time.Duration, error) {
	if s != "" && (s[0] < '0' || s[0] > '9') && s[0] != '-' && s[0] != '+' && s[0] != '.' {
		s = "1" + s
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil || n > 366 {
			return 0, fmt.Errorf("%q is not a number of days from 1 to 366", s)
		}
		return time.Duration(n) * 24 * time.Hour, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a window: want a number and one of ms, s, m, h, d", s)
	}
	if d <= 0 {
		return 0, fmt.Errorf("a window lasts from 1ms to 366d, not %s", s)
	}
	return d, nil
}

func parseCount(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 0 || n > MaxRequests {
		return 0, fmt.Errorf("%q is not a whole number from 1 to %d", s, MaxRequests)
	}
	return uint32(n), nil
}

func formatWindow(d time.Duration) string {
	switch {
	case d%(24*time.Hour) == 0:
		return strconv.Itoa(int(d/(24*time.Hour))) + "d"
	case d%time.Hour == 0:
		return strconv.Itoa(int(d/time.Hour)) + "h"
	case d%time.Minute == 0:
		return strconv.Itoa(int(d/time.Minute)) + "m"
	default:
		return d.String()
	}
}
