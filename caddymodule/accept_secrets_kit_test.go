package caddymodule

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// hunt looks for secrets in whatever was written, whole or in pieces.
type hunt struct {
	needles map[int]map[string]string // by length: a piece of a secret, and its name
	names   []string
}

// piece is how many characters of a secret in a row are a leak of it. Lists may
// show the first six of a key and the last four of a provider key; fewer than
// these of random text would be found in anything.
const piece = 10

// shownOfKey is how many characters behind its prefix lists show of a key.
const shownOfKey = 6

// secret notes one of which nothing may be written but what is shown of it: so
// many characters of its start, and of its end.
func (h *hunt) secret(t testing.TB, name, text string, start, end int) string {
	t.Helper()
	hidden := text[start : len(text)-end]
	if len(hidden) < piece {
		t.Fatalf("the secret %s is too short to look for", name)
	}
	if h.needles == nil {
		h.needles = make(map[int]map[string]string)
	}
	h.names = append(h.names, name)
	for _, form := range secretForms(hidden) {
		for at := 0; at+form.window <= len(form.text); at++ {
			if h.needles[form.window] == nil {
				h.needles[form.window] = make(map[string]string)
			}
			h.needles[form.window][form.text[at:at+form.window]] = name
		}
	}
	return text
}

// made notes a secret that was made up, and returns it. Nothing of it may be
// shown but its last four characters. Its prefix is no secret, and may be that of
// keys of which six more characters are shown: a piece has too few characters of
// the prefix to be in what is shown of such a key by chance.
func (h *hunt) made(t testing.TB, name, prefix, random string) string {
	t.Helper()
	return h.secret(t, name, prefix+random, max(len(prefix)-(piece-shownOfKey), 0), 4)
}

// secretForm is a secret as it may be written, and how long the pieces of that
// are that hold as much as a piece of the plain text.
type secretForm struct {
	text   string
	window int
}

func secretForms(text string) map[string]secretForm {
	backwards := []byte(text)
	slices.Reverse(backwards)
	half := len(text) / 2
	quoted, _ := json.Marshal(text)
	var percent strings.Builder
	for i := range len(text) {
		fmt.Fprintf(&percent, "%%%02X", text[i])
	}
	hexed := hex.EncodeToString([]byte(text))
	forms := map[string]secretForm{
		"plain":             {text, piece},
		"backwards":         {string(backwards), piece},
		"halves swapped":    {text[half:] + text[:half], piece},
		"JSON":              {strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text), piece},
		"JSON of Go":        {strings.TrimSuffix(strings.TrimPrefix(string(quoted), `"`), `"`), piece},
		"in a URL":          {url.QueryEscape(text), piece},
		"hexadecimal":       {hexed, 2 * piece},
		"hexadecimal, big":  {strings.ToUpper(hexed), 2 * piece},
		"in percents":       {percent.String(), 3 * piece},
		"in percents, tiny": {strings.ToLower(percent.String()), 3 * piece},
	}
	for skip := range 3 { // base64 of a text in which the secret starts anywhere
		part := text[skip:]
		part = part[:len(part)/3*3]
		forms[fmt.Sprint("base64, ", skip)] = secretForm{base64.StdEncoding.EncodeToString([]byte(part)), 12}
		forms[fmt.Sprint("base64 for URLs, ", skip)] = secretForm{base64.URLEncoding.EncodeToString([]byte(part)), 12}
	}
	return forms
}

// in returns the names of the secrets that are in the text, with where the first
// piece of each is.
func (h *hunt) in(text []byte) map[string]int {
	found := make(map[string]int)
	for n, pieces := range h.needles {
		for at := 0; at+n <= len(text); at++ {
			if name, ok := pieces[string(text[at:at+n])]; ok {
				if first, known := found[name]; !known || at < first {
					found[name] = at
				}
			}
		}
	}
	return found
}

// evidence is all that was written, by what it is.
type evidence map[string][]byte

// files adds every file below a directory.
func (e evidence) files(t testing.TB, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		e["file "+strings.TrimPrefix(path, dir+"/")] = text
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// add notes more that was written under a name.
func (e evidence) add(name, text string) { e[name] = append(append(e[name], text...), '\n') }

// holds fails unless every word is in one piece of evidence: else what is
// searched may not be what was written.
func (e evidence) holds(t testing.TB, name string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(string(e[name]), word) {
			t.Errorf("%s (%d bytes) does not hold %q", name, len(e[name]), word)
		}
	}
}

// search fails for each secret that is anywhere.
func (e evidence) search(t testing.TB, h *hunt) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(e)) {
		text := e[name]
		for what, at := range h.in(text) {
			t.Errorf("%s, at byte %d, shows %s: …%q…", name, at, what, text[max(at-150, 0):min(at+60, len(text))])
		}
	}
}

// The search itself finds a secret in whatever form it may be written.
func TestHuntFindsSecrets(t *testing.T) {
	const key = "ak_live_7Kq2vX9mTz4LrB8nWc5HsJ3yPd6FgQ1aEuRoNi"
	h := new(hunt)
	h.secret(t, "key", key, len("ak_live_")+shownOfKey, 0)
	h.made(t, "made up", "ak_live_", "JX3QWZ7PL5MNRT2VKCB4YDHGSA")
	h.secret(t, "sharp", `sk-"9+/=&%\zT4kQ8x`, 0, 4)
	raw := []byte{0xff, 0, 1, 2, 3, 0x80, 0x81, 7, 8, 9, 10, 200, 201, 202}
	h.secret(t, "raw", string(raw), 0, 0)
	backwards := []byte(key)
	slices.Reverse(backwards)
	for name, leak := range map[string]string{
		"whole":          key,
		"as lists show":  "ak_live_JX3QWZ",
		"made up":        "JX3QWZ7PL5",
		"its prefix":     base64.StdEncoding.EncodeToString([]byte("ak_live_JX3QWZ7PL5M")),
		"its start":      key[:14+piece],
		"its end":        key[len(key)-piece:],
		"backwards":      string(backwards),
		"base64":         base64.StdEncoding.EncodeToString([]byte("user:" + key)),
		"base64 again":   base64.RawURLEncoding.EncodeToString([]byte("users:" + key)),
		"base64 anew":    base64.StdEncoding.EncodeToString([]byte("a user:" + key)),
		"hex":            hex.EncodeToString([]byte("x" + key)),
		"HEX":            fmt.Sprintf("%X", key),
		"percents":       secretForms(key)["in percents"].text,
		"JSON":           `{"a":"sk-\"9+/=&%\\zT4k"}`,
		"JSON of Go":     `{"a":"sk-\"9+/=\u0026%\\zT4k"}`,
		"URL":            "/?k=" + url.QueryEscape(`sk-"9+/=&%\zT4kQ8x`),
		"raw":            string(raw[2:]),
		"raw in hex":     hex.EncodeToString(raw),
		"raw in base64":  base64.StdEncoding.EncodeToString(raw),
		"raw in base64u": base64.URLEncoding.EncodeToString(raw),
	} {
		if found := h.in([]byte("some text " + leak + " and more")); len(found) == 0 {
			t.Errorf("%s is not found: %q", name, leak)
		}
	}
	for _, fine := range []string{"", key[:14] + "…", "ak_live_JX3QWy, which another key begins with",
		base64.StdEncoding.EncodeToString([]byte("ak_live_JX3Qw")), "it ends with kQ8x", "ak_live_ and sk- are prefixes"} {
		if found := h.in([]byte("some text " + fine)); len(found) > 0 {
			t.Errorf("%q is taken for a leak: %v", fine, found)
		}
	}
}
