package access

import (
	"errors"
	"math/bits"
	"strconv"
	"strings"
)

// Credits is an amount in millionths of a credit. Amounts that people or
// upstreams write are from 0 to MaxCredits; differences may be below zero.
type Credits int64

// The unit and the largest amount: 1e12 credits.
const (
	Credit     Credits = 1_000_000
	MaxCredits         = 1_000_000_000_000 * Credit
)

const creditDecimals = 6

// ErrCredits reports text that is not an amount of credits.
var ErrCredits = errors.New("not an amount of credits: want a number from 0 to 1000000000000 with at most 6 decimals")

// ParseCredits reads digits, and after a point one to six more, such as "5" or
// "0.25". Signs, exponents, spaces, more decimals and amounts above MaxCredits
// are ErrCredits: nothing is ever rounded.
func ParseCredits(s string) (Credits, error) {
	whole, fraction, point := strings.Cut(s, ".")
	if whole == "" || point && fraction == "" || len(fraction) > creditDecimals {
		return 0, ErrCredits
	}
	var n uint64 // at most ten times MaxCredits
	for i := range creditDecimals + len(whole) {
		digit := byte('0')
		switch at := i - len(whole); {
		case at < 0:
			digit = whole[i]
		case at < len(fraction):
			digit = fraction[at]
		}
		if digit < '0' || digit > '9' {
			return 0, ErrCredits
		}
		if n = n*10 + uint64(digit-'0'); n > uint64(MaxCredits) {
			return 0, ErrCredits
		}
	}
	return Credits(n), nil
}

// String writes the form that ParseCredits reads, without needless zeros. An
// amount below zero has a minus sign, which ParseCredits refuses.
func (c Credits) String() string { return string(c.AppendTo(nil)) }

// AppendTo appends what String returns, without allocating if b has room.
func (c Credits) AppendTo(b []byte) []byte {
	n := uint64(c)
	if c < 0 {
		b, n = append(b, '-'), -n
	}
	b = strconv.AppendUint(b, n/uint64(Credit), 10)
	rest := n % uint64(Credit)
	if rest == 0 {
		return b
	}
	b = append(b, '.')
	for unit := uint64(Credit) / 10; rest > 0; unit /= 10 {
		b = append(b, '0'+byte(rest/unit))
		rest %= unit
	}
	return b
}

// MarshalJSON writes a number of credits with up to six decimals.
func (c Credits) MarshalJSON() ([]byte, error) { return c.AppendTo(nil), nil }

// UnmarshalJSON reads a number as ParseCredits does: text, null and exponents
// are refused, and so are amounts below zero.
func (c *Credits) UnmarshalJSON(b []byte) error {
	n, err := ParseCredits(string(b))
	if err != nil {
		return err
	}
	*c = n
	return nil
}

// Add returns c + d, or false and zero if that cannot be represented.
func (c Credits) Add(d Credits) (Credits, bool) {
	sum := c + d
	if (c^sum)&(d^sum) < 0 { // the sign differs from that of both
		return 0, false
	}
	return sum, true
}

// Sub returns c − d, or false and zero if that cannot be represented.
func (c Credits) Sub(d Credits) (Credits, bool) {
	difference := c - d
	if (c^d)&(c^difference) < 0 { // signs differ, and c's was lost
		return 0, false
	}
	return difference, true
}

// Mul returns n × c, or false and zero if that cannot be represented.
func (c Credits) Mul(n int64) (Credits, bool) {
	high, low := bits.Mul64(magnitude(int64(c)), magnitude(n))
	negative := (c < 0) != (n < 0)
	switch {
	case high != 0 || low > 1<<63 || low == 1<<63 && !negative:
		return 0, false
	case negative:
		return Credits(-low), true
	}
	return Credits(low), true
}

// Floor returns the whole credits in c, rounded down.
func (c Credits) Floor() int64 {
	whole := int64(c / Credit)
	if c%Credit < 0 {
		whole--
	}
	return whole
}

// Ceil returns the whole credits in c, rounded up.
func (c Credits) Ceil() int64 {
	whole := int64(c / Credit)
	if c%Credit > 0 {
		whole++
	}
	return whole
}

func magnitude(n int64) uint64 {
	if n < 0 {
		return -uint64(n)
	}
	return uint64(n)
}
