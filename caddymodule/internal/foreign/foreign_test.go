package foreign

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

const sumOfAbc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

// The vectors of bcrypt are those of crypt_blowfish, the vectors of argon2 those
// of the reference implementation.
func TestVerify(t *testing.T) {
	salted := sha256.Sum256([]byte("salt" + "secret"))
	behind := sha256.Sum256([]byte("secret" + "salt"))
	tests := []struct{ name, hash, text string }{
		{"bcrypt 2a", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "U*U"},
		{"bcrypt 2b", "$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "U*U"},
		{"bcrypt 2y", "$2y$05$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK", "U*U*"},
		{"argon2id", "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc", "password"},
		{"argon2i", "$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$wWKIMhR9lyDFvRz9YTZweHKfbftvj+qf+YFY4NeBbtA", "password"},
		{"argon2id threads", "$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc", "password"},
		{"salt before, hex", "sha256:" + hex.EncodeToString([]byte("salt")) + ":" + hex.EncodeToString(salted[:]), "secret"},
		{"salt before, base64", "sha256:" + base64.StdEncoding.EncodeToString([]byte("salt")) + ":" + base64.URLEncoding.EncodeToString(salted[:]) + ":prefix", "secret"},
		{"salt behind", "sha256:73616c74:" + base64.RawStdEncoding.EncodeToString(behind[:]) + ":suffix", "secret"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, err := Parse(tt.hash)
			if err != nil {
				t.Fatal(err)
			}
			if !h.Verify(tt.text) || !Verify(tt.hash, tt.text) {
				t.Error("the right text is refused")
			}
			texts := []string{tt.text + "x", tt.text[1:], "", tt.text + "\x00", tt.text + "\x00" + tt.text}
			if h.Memory() > 1<<20 {
				texts = texts[:1]
			}
			for _, wrong := range texts {
				if h.Verify(wrong) {
					t.Errorf("%q passes", wrong)
				}
			}
			again, err := Parse(h.Text())
			if err != nil || !again.Verify(tt.text) || again.Text() != h.Text() {
				t.Errorf("Text does not give the same hash: %v", err)
			}
			for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
				if s := fmt.Sprintf(verb, h); strings.Contains(s, tt.hash[20:30]) {
					t.Errorf("%s prints the hash: %s", verb, s)
				}
			}
		})
	}
}

// Two long keys with the same first 72 bytes must not be one.
func TestBcryptLongText(t *testing.T) {
	text := strings.Repeat("k", maxBcryptText)
	b, err := bcrypt.GenerateFromPassword([]byte(text), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	if !Verify(string(b), text) {
		t.Error("72 bytes are refused")
	}
	if Verify(string(b), text+"x") {
		t.Error("a byte after the 72nd is not looked at")
	}
}

func TestZero(t *testing.T) {
	var h Hash
	if h.Verify("") || h.Slow() || h.Memory() != 0 || h.Text() != "" {
		t.Error("the zero Hash is of a secret")
	}
}

func TestParseRefuses(t *testing.T) {
	argon := func(s string) string {
		return "$argon2id$v=19$" + s + "$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
	}
	body := "CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"
	tests := map[string]string{
		"":                            "unknown form",
		"plain":                       "unknown form",
		"$1$salt$hash":                "unknown form",
		"$2b$15$" + body:              "cost 15",
		"$2b$31$" + body:              "cost 31",
		"$2b$03$" + body:              "cost 3",
		"$2b$0x$" + body:              "no number",
		"$2x$05$" + body:              "not a bcrypt hash",
		"$2$05$" + body:               "not a bcrypt hash",
		"$2b$05$" + body + "x":        "not a bcrypt hash",
		"$2b$05$" + body[1:] + "=":    "base64",
		argon("m=262145,t=1,p=1"):     "memory",
		argon("m=8,t=11,p=1"):         "passes",
		argon("m=1024,t=1,p=17"):      "threads",
		argon("m=262144,t=5,p=1"):     "in all passes",
		argon("m=8,t=1,p=2"):          "8 KiB",
		argon("m=64,t=0,p=1"):         "t=",
		argon("m=64,t=1,p=0"):         "p=",
		argon("m=064,t=1,p=1"):        "m=",
		argon("m=64,t=1"):             "m=…,t=…,p=…",
		argon("m=64,t=1,p=1,d=aGk"):   "m=…,t=…,p=…",
		argon("t=1,m=64,p=1"):         "m=",
		argon("m=4294967297,t=1,p=1"): "m=",
		"$argon2d$v=19$m=64,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc":  "argon2i",
		"$argon2id$v=16$m=64,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc": "version 19",
		"$argon2id$m=64,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc":      "not an argon2",
		"$argon2id$v=19$m=64,t=1,p=1$c2Fs$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc":        "salt of 3",
		"$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ$CTFh":                                        "hash of 3",
		"$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ$!":                                           "base64",
		"sha256:" + sumOfAbc:                                  "sha256:<salt>:<hash>",
		"sha256::" + sumOfAbc:                                 "salt of 0",
		"sha256:zz!:" + sumOfAbc:                              "neither hex",
		"sha256:00:" + sumOfAbc[1:]:                           "SHA-256",
		"sha256:00:" + sumOfAbc + ":mid":                      "prefix or a suffix",
		"sha256:" + strings.Repeat("0", 300) + ":" + sumOfAbc: "at most",
		"$2b$" + strings.Repeat("x", MaxHash):                 "at most 512",
	}
	for text, want := range tests {
		_, err := Parse(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q) = %v, want an error with %q", text, err, want)
		}
		if err != nil && (strings.Contains(err.Error(), "OeW") || strings.Contains(err.Error(), sumOfAbc[:20])) {
			t.Errorf("the error holds the hash: %v", err)
		}
	}
}

func TestSHA256(t *testing.T) {
	want, _ := hex.DecodeString(sumOfAbc)
	for _, text := range []string{
		sumOfAbc, strings.ToUpper(sumOfAbc),
		base64.StdEncoding.EncodeToString(want), base64.RawStdEncoding.EncodeToString(want),
		base64.URLEncoding.EncodeToString(want), base64.RawURLEncoding.EncodeToString(want),
	} {
		if got, err := SHA256(text); err != nil || string(got[:]) != string(want) {
			t.Errorf("SHA256(%q) = %x, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "abc", sumOfAbc[1:], sumOfAbc + "0", sumOfAbc[:63] + "g",
		base64.StdEncoding.EncodeToString(want[1:]), base64.StdEncoding.EncodeToString(append(want, 1)),
		strings.Repeat("-", 21) + strings.Repeat("+", 22), base64.RawStdEncoding.EncodeToString(want)[:42] + "\n"} {
		if _, err := SHA256(text); err == nil {
			t.Errorf("SHA256(%q) is read", text)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW")
	f.Add("$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc")
	f.Add("sha256:73616c74:" + sumOfAbc + ":suffix")
	f.Fuzz(func(t *testing.T, text string) {
		h, err := Parse(text)
		if err != nil {
			return
		}
		if h.Memory() > 256<<20 {
			t.Fatalf("%q needs %d bytes", text, h.Memory())
		}
		again, err := Parse(h.Text())
		if err != nil || again.Text() != h.Text() {
			t.Fatalf("%q becomes %q: %v", text, h.Text(), err)
		}
		if !h.Slow() {
			h.Verify(text)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	for name, hash := range map[string]string{
		"bcrypt 12":       "$2b$12$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
		"bcrypt 14":       "$2b$14$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
		"argon2id widest": "$argon2id$v=19$m=262144,t=4,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
	} {
		h, err := Parse(hash)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				h.Verify("no")
			}
		})
	}
}
