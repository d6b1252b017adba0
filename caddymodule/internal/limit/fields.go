package limit

import (
	"math/bits"
	"strconv"
	"time"
)

// maxFieldInteger is the largest Integer of a structured field (RFC 9651,
// section 3.3.1).
const maxFieldInteger = 999_999_999_999_999

// FormatPolicy appends the value of the RateLimit-Policy field of
// draft-ietf-httpapi-ratelimit-headers-11 to b, one item per ask: its name, q,
// the requests that a full bucket holds, and w, the seconds in which it regains
// as many, rounded up. Without asks it appends nothing, and the field must be
// left out.
func FormatPolicy(b []byte, asks []Ask) []byte {
	for i := range asks {
		r := asks[i].Rate
		b = appendName(b, i, asks[i].Name)
		b = appendParam(b, ";q=", uint64(r.Burst))
		b = appendParam(b, ";w=", policyWindow(uint64(r.Burst), uint64(r.Requests), r.Window))
	}
	return b
}

// FormatState appends the value of the RateLimit field of the same draft, one
// item per ask: its name, r, the requests remaining, and t, the seconds until
// there is one more, rounded up; t is left out for a full bucket. So t is never
// later than Retry-After. states are those of the asks, in the same order, as
// States returns them.
func FormatState(b []byte, asks []Ask, states []State) []byte {
	for i := range min(len(asks), len(states)) {
		b = appendName(b, i, asks[i].Name)
		b = appendParam(b, ";r=", uint64(max(states[i].Remaining, 0)))
		if next := states[i].Next; next > 0 {
			b = appendParam(b, ";t=", ceilSeconds(uint64(next)))
		}
	}
	return b
}

// policyWindow returns the seconds, at least 1, in which burst requests are
// regained.
func policyWindow(burst, requests uint64, window time.Duration) uint64 {
	if requests == 0 || window <= 0 {
		return 1
	}
	hi, lo := bits.Mul64(uint64(window), burst)
	if hi >= requests {
		return maxFieldInteger
	}
	nanos, rest := bits.Div64(hi, lo, requests)
	seconds := ceilSeconds(nanos)
	if rest > 0 && nanos%uint64(time.Second) == 0 {
		seconds++
	}
	return max(seconds, 1)
}

func ceilSeconds(nanos uint64) uint64 {
	s := nanos / uint64(time.Second)
	if nanos%uint64(time.Second) > 0 {
		s++
	}
	return s
}

func appendParam(b []byte, name string, v uint64) []byte {
	return strconv.AppendUint(append(b, name...), min(v, maxFieldInteger), 10)
}

// appendName appends item i's name as a String (RFC 9651, section 3.3.3).
// Strings are ASCII without control characters: other bytes become '?'.
func appendName(b []byte, i int, name string) []byte {
	if i > 0 {
		b = append(b, ", "...)
	}
	b = append(b, '"')
	for j := range len(name) {
		switch c := name[j]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ' || c > '~':
			b = append(b, '?')
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}
