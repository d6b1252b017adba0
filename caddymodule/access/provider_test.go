package access

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestCheckProvider(t *testing.T) {
	for _, name := range []string{"a", "elevenlabs", "open-ai_2", "z" + strings.Repeat("9", MaxProvider-1)} {
		if err := CheckProvider(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", "-a", "_a", "1a", "A", "openAI", "open ai", "a/b", "a.b", "a\x00", "ä", "aä", "z" + strings.Repeat("9", MaxProvider)} {
		if CheckProvider(name) == nil {
			t.Errorf("%q passes for a provider's name", name)
		}
	}
}

// What is sealed is opaque, and still no business of a log.
func TestProviderKeysPrintNothingSealed(t *testing.T) {
	const sealed = "SEALED-BYTES"
	p := ProviderKey{Tenant: "acme", Provider: "elevenlabs", ID: "pk_0123456789abcdef", LastFour: "last", CreatedAt: time.Unix(1, 0), Sealed: []byte(sealed)}
	d := DataKey{Tenant: "acme", Wrapper: "master:1", Wrapped: []byte(sealed)}
	for _, v := range []any{p, &p, d, &d, []ProviderKey{p}, map[string]*DataKey{"x": &d}, struct{ K ProviderKey }{p}} {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		texts := []string{string(text)}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
			texts = append(texts, fmt.Sprintf(verb, v))
		}
		for _, text := range texts {
			for _, form := range []string{"%s", "%x", "%X", "%d"} {
				if shown := strings.Trim(fmt.Sprintf(form, []byte(sealed)), "[]"); strings.Contains(text, shown) {
					t.Errorf("%T shows what is sealed: %s", v, text)
				}
			}
			if text != texts[0] && strings.Contains(text, "last") {
				t.Errorf("%T shows the last four characters: %s", v, text)
			}
		}
	}
	if got, want := fmt.Sprint(p), "provider key pk_0123456789abcdef of tenant acme for elevenlabs"; got != want {
		t.Error(got)
	}
	if got, want := fmt.Sprint(&d), "data key of tenant acme under master:1"; got != want {
		t.Error(got)
	}
}
