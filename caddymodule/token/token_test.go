package token

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"strings"
	"testing"
)

func newSet(t testing.TB, prefixes ...string) Set {
	t.Helper()
	s, err := NewSet(prefixes...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mint(t testing.TB, prefix string) string {
	t.Helper()
	s, err := Mint(prefix, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return s.Reveal()
}

// known is a key of zero bytes: a change of the format breaks every key that
// was ever handed out, so it is written down.
const known = "psk_" + "00000000000000000000000000000000" + "0Dqkal"

func TestMintKnownKey(t *testing.T) {
	s, err := Mint("psk_", bytes.NewReader(make([]byte, 64)))
	if err != nil {
		t.Fatal(err)
	}
	if s.Reveal() != known {
		t.Errorf("the key of zero bytes is %s, want %s", s.Reveal(), known)
	}
}

func TestMintErrors(t *testing.T) {
	broken := errors.New("no entropy")
	if _, err := Mint("psk_", io.MultiReader(bytes.NewReader(make([]byte, 10)), errReader{broken})); !errors.Is(err, broken) {
		t.Errorf("error is %v, want the reader's", err)
	}
	if _, err := Mint("psk_", bytes.NewReader(make([]byte, 10))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("error is %v, want %v", err, io.ErrUnexpectedEOF)
	}
	if _, err := Mint("psk", rand.Reader); err == nil {
		t.Error("a prefix without '_' was minted")
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func TestCheckPrefix(t *testing.T) {
	for p, ok := range map[string]bool{
		"psk_": true, "ak_live_": true, "_": true, "P0_": true, strings.Repeat("a", MaxPrefix-1) + "_": true,
		"": false, "psk": false, "psk-": false, "p-k_": false, "p k_": false, "pské_": false, "p\x00_": false,
		strings.Repeat("a", MaxPrefix) + "_": false,
	} {
		if err := CheckPrefix(p); (err == nil) != ok {
			t.Errorf("CheckPrefix(%q) = %v, want ok %v", p, err, ok)
		}
	}
	if _, err := NewSet("a_", "b_", "a_"); !errors.Is(err, ErrDuplicatePrefix) {
		t.Errorf("duplicate prefix: error is %v", err)
	}
	if _, err := NewSet("a_", "b"); err == nil {
		t.Error("a set with a bad prefix was made")
	}
}

func TestClassify(t *testing.T) {
	set := newSet(t, "psk_", "psk_test_", "x_")
	key, test := mint(t, "psk_"), mint(t, "psk_test_")
	for text, want := range map[string]Shape{
		key: Minted, test: Minted, known: Minted, mint(t, "x_"): Minted,
		"psk_" + strings.Repeat("a", bodyLen): Garbage, "psk_test_" + strings.Repeat("0", bodyLen): Garbage,
		// Keys of older systems may share the prefix: they can be imported.
		"psk_": Foreign, "psk_your_key_here": Foreign, "psk_short": Foreign, key + "x": Foreign, key[:len(key)-1]: Foreign,
		"psk_" + strings.Repeat("-", bodyLen): Foreign,
		"PSK_" + key[4:]:                      Foreign, "sk-other-vendor": Foreign, "0": Foreign, strings.Repeat("a", MaxLen): Foreign,
		mint(t, "other_"): Foreign, "a" + key: Foreign,
		"": Oversize, strings.Repeat("a", MaxLen+1): Oversize, key + " ": Oversize, key + "\n": Oversize,
		"psk_\x00": Oversize, "clé": Oversize, "a\x7f": Oversize,
	} {
		if got := set.Classify(text); got != want {
			t.Errorf("Classify(%q) = %d, want %d", text, got, want)
		}
	}
	if got := (Set{}).Classify(key); got != Foreign {
		t.Errorf("the empty set classifies a key as %d", got)
	}
	if n := testing.AllocsPerRun(100, func() { set.Classify(key); set.Find(key) }); n != 0 {
		t.Errorf("Classify and Find allocate %v times", n)
	}
}

func TestOneChangedCharacterIsNotMinted(t *testing.T) {
	set := newSet(t, "psk_")
	for range 5 {
		key := []byte(mint(t, "psk_"))
		for i, old := range key {
			for c := range 256 {
				if byte(c) == old {
					continue
				}
				key[i] = byte(c)
				if set.Classify(string(key)) == Minted {
					t.Fatalf("%q passes with character %d changed to %#x", key, i, c)
				}
			}
			key[i] = old
		}
	}
}

func TestSwappedCharactersAreNotMinted(t *testing.T) {
	set, key := newSet(t, "psk_"), []byte(mint(t, "psk_"))
	for i := 1; i < len(key); i++ {
		key[i-1], key[i] = key[i], key[i-1]
		if key[i-1] != key[i] && set.Classify(string(key)) == Minted {
			t.Errorf("%s passes with characters %d and %d swapped", key, i-1, i)
		}
		key[i-1], key[i] = key[i], key[i-1]
	}
}

func TestFind(t *testing.T) {
	set := newSet(t, "psk_", "a_psk_", "x_")
	key, other := mint(t, "psk_"), mint(t, "x_")
	for _, c := range []struct{ before, key, after string }{
		{"", key, ""},
		{"/v1?k=", key, "&a=b"},
		{"psk_psk_", key, "zzz"},
		{"a_", key, ""},
		{"a_psk_" + strings.Repeat("0", bodyLen), key, other},
		{"", other, key},
		{"_", mint(t, "a_psk_"), "_"},
	} {
		text := c.before + c.key + c.after
		start, end, ok := set.Find(text)
		if !ok || text[start:end] != c.key {
			t.Errorf("Find(%q) = %d, %d, %v, want %q", text, start, end, ok, c.key)
		}
	}
	for _, text := range []string{"", "_", "psk_", key[:len(key)-1], key[1:], strings.ToLower(key) + strings.ToUpper(key), strings.Repeat("_", 100)} {
		if start, end, ok := set.Find(text); ok {
			t.Errorf("Find(%q) = %d, %d", text, start, end)
		}
	}
}

func TestRedact(t *testing.T) {
	set := newSet(t, "psk_", "x_")
	a, b := mint(t, "psk_"), mint(t, "x_")
	overlap := endingWith(t, "x") + mint(t, "x_")[1:]
	for text, want := range map[string]string{
		"":                    "",
		"nothing_here":        "nothing_here",
		a:                     a[:10] + "…",
		"<" + b + a + ">" + a: "<" + b[:8] + "…" + a[:10] + "…>" + a[:10] + "…",
		overlap:               overlap[:10] + "…_" + overlap[4+bodyLen+1:][:shownLen] + "…",
	} {
		if got := set.Redact(text); got != want {
			t.Errorf("Redact(%q) = %q, want %q", text, got, want)
		}
	}
	if got := (Set{}).Redact(a); got != a {
		t.Errorf("the empty set redacts: %q", got)
	}
}

// endingWith mints psk_ keys until one ends with the text.
func endingWith(t *testing.T, text string) string {
	for range 100_000 {
		if k := mint(t, "psk_"); strings.HasSuffix(k, text) {
			return k
		}
	}
	t.Fatal("no key ends with " + text)
	return ""
}

// A header of a megabyte full of keys must not cost the log more than its
// length: the work is counted in bytes allocated, not in time.
func TestRedactIsLinear(t *testing.T) {
	set := newSet(t, "never_", "psk_")
	text := strings.Repeat(known, 1<<20/len(known))
	if n := testing.AllocsPerRun(1, func() { set.Redact(text) }); n > 4 {
		t.Errorf("Redact allocates %v times for many keys", n)
	}
}

func TestMerge(t *testing.T) {
	a, b := newSet(t, "a_", "b_"), newSet(t, "b_", "c_")
	both, more := a.Merge(b)
	if !more {
		t.Error("merging adds nothing")
	}
	for _, p := range []string{"a_", "b_", "c_"} {
		if both.Classify(mint(t, p)) != Minted {
			t.Errorf("%s is not in the merged set", p)
		}
	}
	if a.Classify("c_") != Foreign {
		t.Error("merging changed the set that was merged into")
	}
	if _, more := both.Merge(a); more {
		t.Error("merging a part adds something")
	}
}

func TestDisplay(t *testing.T) {
	set := newSet(t, "psk_")
	for text, want := range map[string]string{
		known: "psk_000000", "sk-or-v1-0123456789": "sk-o", strings.Repeat("k", 64): "kkkkkk", "abc": "", "": "",
	} {
		if got := set.Display(Wrap(text)); got != want {
			t.Errorf("Display(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestAlphabetIsEven(t *testing.T) {
	const n = 620_000
	b, err := AppendRandom(nil, n, rand.Reader)
	if err != nil || len(b) != n {
		t.Fatalf("%d characters, error %v", len(b), err)
	}
	var count [256]float64
	for _, c := range b {
		count[c]++
	}
	var chi float64
	for _, c := range []byte(alphabet) {
		chi += math.Pow(count[c]-n/62, 2) / (n / 62)
		count[c] = 0
	}
	// 61 degrees of freedom: 150 is passed by chance once in 10^9 runs. Taking
	// bytes modulo 62 without a bound would give over 10,000.
	if chi > 150 {
		t.Errorf("chi square of the characters is %.0f", chi)
	}
	for c, n := range count {
		if n != 0 {
			t.Errorf("%#x is in a key %v times", c, n)
		}
	}
}

func TestSecretIsNeverPrinted(t *testing.T) {
	text := mint(t, "psk_")
	master, err := ParseMaster("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
	if err != nil {
		t.Fatal(err)
	}
	type inner struct {
		Public Secret
		hidden Secret
		master Master
		digest *Digester
	}
	s := Wrap(text)
	in := inner{s, s, master, NewDigester(master)}
	values := []any{s, &s, []Secret{s}, map[string]Secret{"a": s}, in, &in, []inner{in}, struct{ in inner }{in}, [1]any{in},
		master, &master, in.digest, fmt.Errorf("bad key %v %w", s, errors.New("x"))}
	var out strings.Builder
	for _, v := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%o", "%c", "%U", "%t", "%e", "%p", "%z", "%100.3s"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		fmt.Fprintln(&out, v)
		if b, err := json.Marshal(v); err == nil {
			out.Write(b)
		}
		for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
			slog.New(h).Info("m", "v", v, slog.Group("g", "v", v))
		}
	}
	part := text[4:16]
	for _, leak := range []string{part, fmt.Sprintf("%x", part), fmt.Sprintf("%X", part), strings.Trim(fmt.Sprint([]byte(part)), "[]"),
		"4 5 6 7 8", "04050607", "0x4, 0x5, 0x6", "4,5,6,7,8", "AAECAwQF", "BAUGBwgJ"} {
		if i := strings.Index(out.String(), leak); i >= 0 {
			t.Errorf("printed %q: …%s…", leak, out.String()[max(0, i-80):i+40])
		}
	}
	if s.Reveal() != text || s.IsZero() || !Wrap("").IsZero() || (Secret{}).Reveal() != "" {
		t.Error("a wrapped secret is not revealed as it was")
	}
}

func TestVisible(t *testing.T) {
	for n := range 20 {
		for at := range n {
			for c := range 256 {
				text := []byte(strings.Repeat("!~", n))[:n]
				text[at] = byte(c)
				if got, want := visible(string(text)), c > ' ' && c < 0x7f; got != want {
					t.Fatalf("visible(%q) = %v", text, got)
				}
			}
		}
	}
}

func FuzzClassify(f *testing.F) {
	set := newSet(f, "psk_", "ak_live_", "_")
	for _, s := range []string{"", "_", known, known[1:], "psk_", "ak_live_" + known, "\x00", strings.Repeat("_", 80)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		start, end, ok := set.Find(s)
		if ok && set.Classify(s[start:end]) != Minted {
			t.Errorf("Find(%q) found %q, which is not minted", s, s[start:end])
		}
		if set.Classify(s) == Minted && !ok {
			t.Errorf("%q is minted and not found", s)
		}
		red := set.Redact(s)
		if _, _, again := set.Find(red); again {
			t.Errorf("Redact(%q) = %q still holds a key", s, red)
		}
		if ok == (red == s) {
			t.Errorf("Redact(%q) = %q with a key found: %v", s, red, ok)
		}
		if got := set.Redact(s + known); strings.Contains(got, known) {
			t.Errorf("Redact(%q) keeps the key", s+known)
		}
		set.Display(Wrap(s))
		_ = CheckPrefix(s)
		if m, err := ParseMaster(s); err == nil {
			if again, err := ParseMaster(m.Text()); err != nil || again.Text() != m.Text() {
				t.Errorf("ParseMaster(%q) does not survive Text", s)
			}
		}
	})
}

func BenchmarkClassify(b *testing.B) {
	set := newSet(b, "psk_", "ak_live_")
	for name, text := range map[string]string{"minted": known, "garbage": known[:len(known)-1] + "x", "foreign": "sk-proj-0123456789012345678901234567890123456789"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				set.Classify(text)
			}
		})
	}
}

func BenchmarkFind(b *testing.B) {
	set := newSet(b, "psk_", "ak_live_")
	for name, text := range map[string]string{
		"short value": "text/html; charset=utf-8", "hostile 64KiB": strings.Repeat("psk_"+strings.Repeat("0", 37), 1600),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				set.Find(text)
			}
		})
	}
}

func BenchmarkRedact1MiBOfKeys(b *testing.B) {
	set := newSet(b, "never_", "psk_")
	text := strings.Repeat(known, 1<<20/len(known))
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		set.Redact(text)
	}
}

func BenchmarkMint(b *testing.B) {
	for b.Loop() {
		if _, err := Mint("psk_", rand.Reader); err != nil {
			b.Fatal(err)
		}
	}
}
