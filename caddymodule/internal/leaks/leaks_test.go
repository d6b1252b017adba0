package leaks

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/token"
)

type programme struct {
	t       *testing.T
	key     *ecdsa.PrivateKey
	h       *Handler
	active  map[string]bool
	calls   int
	broken  string // revoking this token fails
	reports []error
}

func newProgramme(t *testing.T) *programme {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := ParseKeys(map[string]string{"key-1": pemOf(t, &key.PublicKey)})
	if err != nil {
		t.Fatal(err)
	}
	p := &programme{t: t, key: key, active: map[string]bool{"kt_one": true, "kt_two": true}}
	p.h = &Handler{Keys: keys, OnError: func(err error) { p.reports = append(p.reports, err) },
		Revoke: func(_ context.Context, s token.Secret) (bool, error) {
			p.calls++
			if s.Reveal() == p.broken {
				return false, errors.New("disk full")
			}
			_, known := p.active[s.Reveal()]
			if known {
				p.active[s.Reveal()] = false
			}
			return known, nil
		}}
	return p
}

func pemOf(t *testing.T, public any) string {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func (p *programme) sign(body string) string {
	sum := sha256.Sum256([]byte(body))
	sig, err := ecdsa.SignASN1(rand.Reader, p.key, sum[:])
	if err != nil {
		p.t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(sig)
}

func (p *programme) post(body, id, signature string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "/leaks", strings.NewReader(body))
	r.Header.Set("GITHUB-PUBLIC-KEY-IDENTIFIER", id)
	r.Header.Set("GITHUB-PUBLIC-KEY-SIGNATURE", signature)
	w := httptest.NewRecorder()
	p.h.ServeHTTP(w, r)
	return w
}

func (p *programme) send(body string) *httptest.ResponseRecorder {
	return p.post(body, "key-1", p.sign(body))
}

func hashOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func TestRevokesAndAnswers(t *testing.T) {
	p := newProgramme(t)
	body := `[{"token":"kt_one","type":"kt","url":"https://example.com/a","source":"content","new":{"a":1}},
		{"token":"other","type":"kt","url":"","source":"commit"},{"token":"kt_one","type":"kt_test","url":""},{"token":"","type":"kt"}]`
	w := p.send(body)
	if w.Code != 200 || w.Header().Get("Cache-Control") != "no-store" {
		t.Fatalf("answer %d %v: %s", w.Code, w.Header(), w.Body)
	}
	var got []map[string]string
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want := []map[string]string{
		{"token_hash": hashOf("kt_one"), "token_type": "kt", "label": "true_positive"},
		{"token_hash": hashOf("other"), "token_type": "kt", "label": "false_positive"},
		{"token_hash": hashOf("kt_one"), "token_type": "kt_test", "label": "true_positive"},
		{"token_hash": hashOf(""), "token_type": "kt", "label": "false_positive"},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("answer %v, want %v", got, want)
	}
	if p.active["kt_one"] || !p.active["kt_two"] || p.calls != 2 {
		t.Errorf("after %d calls: %v", p.calls, p.active)
	}
	if again := p.send(body); again.Code != 200 || !bytes.Equal(again.Body.Bytes(), w.Body.Bytes()) {
		t.Errorf("the same message again is answered %d %s", again.Code, again.Body)
	}
}

func TestRefusesWhatIsNotSigned(t *testing.T) {
	p := newProgramme(t)
	other := newProgramme(t)
	body := `[{"token":"kt_one","type":"kt"}]`
	good := p.sign(body)
	raw, _ := base64.StdEncoding.DecodeString(good)
	tests := map[string]*httptest.ResponseRecorder{
		"no signature":      p.post(body, "key-1", ""),
		"unknown key":       p.post(body, "key-2", good),
		"another key":       p.post(body, "key-1", other.sign(body)),
		"another body":      p.post(body+" ", "key-1", good),
		"not base64":        p.post(body, "key-1", "!"+good),
		"trailing bytes":    p.post(body, "key-1", base64.StdEncoding.EncodeToString(append(raw, 0))),
		"signature of none": p.post(body, "key-1", p.sign("")),
	}
	r := httptest.NewRequest(http.MethodPost, "/leaks", strings.NewReader(body))
	r.Header[headerIdentifier] = []string{"key-1", "key-1"}
	r.Header[headerSignature] = []string{good, good}
	twice := httptest.NewRecorder()
	p.h.ServeHTTP(twice, r)
	tests["headers twice"] = twice
	for name, w := range tests {
		if w.Code != http.StatusUnauthorized || w.Body.String() != `{"error":"invalid_signature"}` {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	if !p.active["kt_one"] || p.calls != 0 {
		t.Error("a message without a signature revoked a key")
	}
	p.h.Keys = nil
	if w := p.post(body, "key-1", good); w.Code != http.StatusUnauthorized {
		t.Errorf("without keys: %d", w.Code)
	}
}

func TestBounds(t *testing.T) {
	p := newProgramme(t)
	entry := `{"token":"x","type":"kt"}`
	most := "[" + strings.Repeat(entry+",", MaxTokens-1) + entry + "]"
	if w := p.send(most); w.Code != 200 {
		t.Errorf("%d tokens: %d", MaxTokens, w.Code)
	}
	tests := map[string]struct {
		body   string
		status int
	}{
		"a token too many": {most[:len(most)-1] + "," + entry + "]", 400},
		"no JSON":          {"hello", 400},
		"no array":         {entry, 400},
		"wrong type":       {`[{"token":1}]`, 400},
		"two values":       {"[] []", 400},
		"empty":            {"", 400},
		"too large":        {"[" + strings.Repeat(" ", MaxBody-1) + "]", 413},
		"deep":             {strings.Repeat("[", 100_000), 400},
	}
	for name, tt := range tests {
		if w := p.send(tt.body); w.Code != tt.status {
			t.Errorf("%s: %d, want %d", name, w.Code, tt.status)
		}
	}
	if w := p.send("[]"); w.Code != 200 || w.Body.String() != "[]" {
		t.Errorf("no tokens: %d %s", w.Code, w.Body)
	}
	if w := p.send(`[{"token":"` + strings.Repeat("x", token.MaxLen+1) + `"}]`); w.Code != 200 || p.calls != 1 {
		t.Errorf("a long token: %d after %d calls", w.Code, p.calls)
	}
	w := httptest.NewRecorder()
	p.h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/leaks", nil))
	if w.Code != 405 || w.Header().Get("Allow") != "POST" {
		t.Errorf("GET: %d %v", w.Code, w.Header())
	}
}

// One key that cannot be revoked must not keep another alive, and the message
// must come again.
func TestErrors(t *testing.T) {
	p := newProgramme(t)
	p.broken = "kt_one"
	body := `[{"token":"kt_one","type":"kt"},{"token":"kt_two","type":"kt"}]`
	if w := p.send(body); w.Code != 503 || w.Body.String() != `{"error":"unavailable"}` {
		t.Errorf("answer %d %s", w.Code, w.Body)
	}
	if p.active["kt_two"] || len(p.reports) != 1 {
		t.Errorf("%v, reports %v", p.active, p.reports)
	}
	p.broken = ""
	if w := p.send(body); w.Code != 200 || p.active["kt_one"] {
		t.Errorf("again: %d, %v", w.Code, p.active)
	}
}

func TestParseKeys(t *testing.T) {
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	rsaKey, _ := rsa.GenerateKey(rand.Reader, 2048)
	for want, pems := range map[string]map[string]string{
		"public key k: not PEM":       {"k": "hello"},
		"identifier":                  {"": pemOf(t, &p384.PublicKey)},
		"public key p: want an ECDSA": {"p": pemOf(t, &p384.PublicKey)},
		"public key r: want an ECDSA": {"r": pemOf(t, &rsaKey.PublicKey)},
		"public key x: asn1":          {"x": "-----BEGIN PUBLIC KEY-----\naGVsbG8=\n-----END PUBLIC KEY-----\n"},
	} {
		if _, err := ParseKeys(pems); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}
