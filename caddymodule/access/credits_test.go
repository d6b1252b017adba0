package access

import (
	"encoding/json"
	"math"
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestParseCredits(t *testing.T) {
	for in, want := range map[string]Credits{
		"0": 0, "5": 5 * Credit, "0.25": 250_000, "0.000001": 1, "1.500000": 1_500_000, "1000": 1000 * Credit,
		"1000000000000": MaxCredits, "1000000000000.000000": MaxCredits, "999999999999.999999": MaxCredits - 1, "007": 7 * Credit, "0.0": 0,
		strings.Repeat("0", 100) + "1": Credit,
	} {
		got, err := ParseCredits(in)
		if err != nil || got != want {
			t.Errorf("%s: %d, %v", in, got, err)
		}
		if again, err := ParseCredits(got.String()); err != nil || again != got {
			t.Errorf("%s is written %s, which is read as %d, %v", in, got, again, err)
		}
	}
}

func TestParseCreditsRefuses(t *testing.T) {
	for _, in := range []string{
		"", ".", "5.", ".5", "-1", "-0", "+1", " 1", "1 ", "1e3", "1E3", "0x10", "1_000", "1,5", "NaN", "Inf", "infinity", "0.0000001", "0.2500000",
		"1.2.3", "1.-2", "1000000000000.000001", "1000000000001", "9223372036854775808", "99999999999999999999999999999999", "٣", "1\x00", "null", `"5"`,
	} {
		if c, err := ParseCredits(in); err == nil {
			t.Errorf("%q was read as %v", in, c)
		}
	}
}

func TestCreditsString(t *testing.T) {
	for c, want := range map[Credits]string{
		0: "0", 1: "0.000001", -1: "-0.000001", 250_000: "0.25", -1_500_000: "-1.5", 10 * Credit: "10", 1_000_010: "1.00001",
		math.MaxInt64: "9223372036854.775807", math.MinInt64: "-9223372036854.775808",
	} {
		if got := c.String(); got != want {
			t.Errorf("%d is written %s, not %s", int64(c), got, want)
		}
	}
}

func TestCreditsJSON(t *testing.T) {
	b, err := json.Marshal(struct{ A, B Credits }{1_250_000, 3 * Credit})
	if err != nil || string(b) != `{"A":1.25,"B":3}` {
		t.Errorf("%s, %v", b, err)
	}
	var c Credits
	if err := json.Unmarshal([]byte(` 0.1 `), &c); err != nil || c != 100_000 {
		t.Errorf("%v, %v", c, err)
	}
	for _, in := range []string{`"5"`, `null`, `-1`, `1e2`, `1E-2`, `true`, `[1]`, `{}`, `0.0000001`, `1e400`} {
		c = 7
		if err := json.Unmarshal([]byte(in), &c); err == nil || c != 7 {
			t.Errorf("%s was read as %v", in, c)
		}
	}
}

func TestCreditsRound(t *testing.T) {
	for c, want := range map[Credits][2]int64{0: {0, 0}, 1: {0, 1}, Credit: {1, 1}, Credit + 1: {1, 2}, -1: {-1, 0}, -Credit: {-1, -1}, -Credit - 1: {-2, -1}} {
		if c.Floor() != want[0] || c.Ceil() != want[1] {
			t.Errorf("%d: %d, %d", c, c.Floor(), c.Ceil())
		}
	}
}

// Every operation agrees with integers without bounds.
func TestCreditsArithmetic(t *testing.T) {
	edges := []int64{0, 1, -1, 2, -2, 3, math.MaxInt64, math.MinInt64, math.MaxInt64 - 1, math.MinInt64 + 1, 1 << 31, 1 << 32, 3037000499, 3037000500, -3037000500, int64(MaxCredits)}
	random := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		edges = append(edges, int64(random.Uint64())>>random.UintN(64))
	}
	check := func(op string, a, b int64, got Credits, ok bool, want *big.Int) {
		if ok != want.IsInt64() || ok && int64(got) != want.Int64() || !ok && got != 0 {
			t.Fatalf("%d %s %d = %d, %v; want %s", a, op, b, got, ok, want)
		}
	}
	for _, a := range edges {
		for _, b := range edges[:16+len(edges)/20] {
			x, y := big.NewInt(a), big.NewInt(b)
			sum, ok := Credits(a).Add(Credits(b))
			check("+", a, b, sum, ok, new(big.Int).Add(x, y))
			difference, ok := Credits(a).Sub(Credits(b))
			check("-", a, b, difference, ok, new(big.Int).Sub(x, y))
			product, ok := Credits(a).Mul(b)
			check("*", a, b, product, ok, new(big.Int).Mul(x, y))
		}
	}
}

func FuzzParseCredits(f *testing.F) {
	for _, s := range []string{"5", "0.25", "1e3", "-1", "1000000000000", "NaN", "0.0000001"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseCredits(s)
		if err != nil {
			if c != 0 {
				t.Errorf("%q is refused with %d", s, c)
			}
			return
		}
		want, ok := new(big.Rat).SetString(s)
		if !ok || want.Mul(want, big.NewRat(int64(Credit), 1)).Cmp(big.NewRat(int64(c), 1)) != 0 || c < 0 || c > MaxCredits {
			t.Errorf("%q was read as %d", s, c)
		}
		if again, err := ParseCredits(c.String()); err != nil || again != c {
			t.Errorf("%d is written %s", c, c)
		}
	})
}
