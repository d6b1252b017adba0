package token

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
	"sync"
	"testing"
)

func newMaster(t testing.TB, seed byte) Master {
	t.Helper()
	raw := make([]byte, MasterLen)
	for i := range raw {
		raw[i] = seed + byte(i)
	}
	m, err := ParseMaster(base64.StdEncoding.EncodeToString(raw))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestParseMaster(t *testing.T) {
	raw := make([]byte, MasterLen)
	for i := range raw {
		raw[i] = 0xfb - byte(i) // gives '+' and '/' in standard base64
	}
	std := base64.StdEncoding.EncodeToString(raw)
	for _, text := range []string{std, strings.TrimRight(std, "="), base64.URLEncoding.EncodeToString(raw), base64.RawURLEncoding.EncodeToString(raw), " \t" + std + "\r\n"} {
		m, err := ParseMaster(text)
		if err != nil || m.Text() != std {
			t.Errorf("ParseMaster(%q) = %v", text, err)
		}
	}
	for _, text := range []string{"", "=", "short", std[:40], std + "AAAA", "!" + std[1:], base64.StdEncoding.EncodeToString(raw[:31]), strings.Repeat("a", 1<<16)} {
		_, err := ParseMaster(text)
		if !errors.Is(err, ErrMaster) {
			t.Errorf("ParseMaster(%.50q): error is %v", text, err)
		}
		if err != nil && len(text) > 20 && strings.Contains(err.Error(), text) {
			t.Errorf("the error repeats the key: %v", err)
		}
	}
	for _, same := range []byte{0, 'A', 0xff} {
		if _, err := ParseMaster(base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{same}, MasterLen))); err == nil {
			t.Errorf("32 bytes %#x are taken for a random key", same)
		}
	}
}

func TestDerive(t *testing.T) {
	m := newMaster(t, 1)
	if m.Derive("a") != m.Derive("a") {
		t.Error("deriving twice gives two keys")
	}
	if m.Derive("a") == m.Derive("b") || m.Derive("a") == newMaster(t, 2).Derive("a") {
		t.Error("another purpose or master gives the same key")
	}
}

func TestDigesterIsHMAC(t *testing.T) {
	m := newMaster(t, 1)
	d, pepper := NewDigester(m), m.Derive("digest pepper")
	for _, text := range []string{"", "a", known, strings.Repeat("x", MaxLen)} {
		h := hmac.New(sha256.New, pepper[:])
		h.Write([]byte(text))
		if got := d.Sum(text); !bytes.Equal(got[:], h.Sum(nil)) {
			t.Errorf("Sum(%.20q) is not HMAC-SHA-256 under the pepper", text)
		}
	}
}

func TestDigesterDependsOnMaster(t *testing.T) {
	a, b := NewDigester(newMaster(t, 1)), NewDigester(newMaster(t, 2))
	if a.Sum(known) == b.Sum(known) {
		t.Error("two masters give the same digest")
	}
	if a.Sum(known) != NewDigester(newMaster(t, 1)).Sum(known) {
		t.Error("one master gives two digests")
	}
	if a.Sum(known) == sha256.Sum256([]byte(known)) {
		t.Error("the digest has no pepper")
	}
}

func TestDigesterConcurrently(t *testing.T) {
	d := NewDigester(newMaster(t, 1))
	texts := []string{known, "a", "b", strings.Repeat("c", 300)}
	var want [4][32]byte
	for i, s := range texts {
		want[i] = d.Sum(s)
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 500 {
				if k := (i + g) % len(texts); d.Sum(texts[k]) != want[k] {
					t.Errorf("a digest of %.10q differs under load", texts[k])
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestDigesterDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("under the race detector a sync.Pool drops values at random")
	}
	d := NewDigester(newMaster(t, 1))
	d.Sum(known)
	if n := testing.AllocsPerRun(1000, func() { d.Sum(known) }); n != 0 {
		t.Errorf("Sum allocates %v times", n)
	}
}

func BenchmarkSum(b *testing.B) {
	d := NewDigester(newMaster(b, 1))
	b.ReportAllocs()
	for b.Loop() {
		d.Sum(known)
	}
}
