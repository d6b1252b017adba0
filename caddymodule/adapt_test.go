package caddymodule

import (
	"bytes"
	"encoding/json"
	goflag "flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

var update = goflag.Bool("update", false, "rewrite the expectations in testdata/adapt")

const adaptDashes = "\n----------\n"

// adaptMark stands as a comment on the line that an error must name.
const adaptMark = "# wrong"

var adaptLine = regexp.MustCompile(`Caddyfile:(\d+)`)

// TestAdapt compares what each Caddyfile of testdata/adapt becomes: JSON, which
// must be valid too, or an error, which must name the marked line.
func TestAdapt(t *testing.T) {
	t.Setenv("KEYTOLL_ADAPT_LITERAL", "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=")
	files, err := filepath.Glob("../testdata/adapt/*.caddyfiletest")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d cases, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".caddyfiletest"), func(t *testing.T) { adaptCase(t, file) })
	}
}

func adaptCase(t *testing.T, file string) {
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	source, want, ok := strings.Cut(string(b), adaptDashes)
	if !ok {
		t.Fatal("no line of dashes")
	}
	cfg, err := adapt(source + "\n")
	bad := strings.HasPrefix(filepath.Base(file), "bad_")
	if bad != (err != nil) {
		t.Fatalf("error %v", err)
	}
	var got string
	if bad {
		got = err.Error()
		adaptCheckLine(t, source, got)
	} else {
		got = adaptIndent(t, cfg)
		adaptValidate(t, cfg, source)
	}
	if *update {
		if err := os.WriteFile(file, []byte(source+adaptDashes+got+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got != strings.TrimSuffix(want, "\n") {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// adaptCheckLine fails unless the error names the marked line.
func adaptCheckLine(t *testing.T, source, got string) {
	t.Helper()
	m := adaptLine.FindStringSubmatch(got)
	if m == nil {
		t.Fatalf("no line in %q", got)
	}
	n, _ := strconv.Atoi(m[1])
	lines := strings.Split(source, "\n")
	if n < 1 || n > len(lines) || !strings.Contains(lines[n-1], adaptMark) {
		t.Errorf("line %d is not the wrong one: %s", n, got)
	}
}

func adaptIndent(t *testing.T, cfg []byte) string {
	t.Helper()
	var out bytes.Buffer
	if err := json.Indent(&out, cfg, "", "\t"); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// adaptValidate does what `caddy validate` does. Master keys that are files or
// variables of another machine are the exception.
func adaptValidate(t *testing.T, cfg []byte, source string) {
	t.Helper()
	if strings.Contains(source, "master_key") {
		return
	}
	if err := adaptProvision(cfg); err != nil {
		t.Errorf("adapts but does not validate: %v", err)
	}
}

func adaptProvision(cfg []byte) error {
	var c caddy.Config
	if err := json.Unmarshal(cfg, &c); err != nil {
		return err
	}
	return caddy.Validate(&c)
}

// TestExampleIsFormattedAndValid is `caddy fmt --diff`, adapt and validate.
func TestExampleIsFormattedAndValid(t *testing.T) {
	b, err := os.ReadFile("../Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	if f := caddyfile.Format(b); !bytes.Equal(f, b) {
		t.Errorf("caddy fmt would write:\n%s", f)
	}
	cfg, err := adapt(string(b))
	if err != nil {
		t.Fatal(err)
	}
	if err := adaptProvision(cfg); err != nil {
		t.Error(err)
	}
}

// TestAdaptTestdataIsFormatted keeps the good cases as `caddy fmt` writes them.
func TestAdaptTestdataIsFormatted(t *testing.T) {
	files, _ := filepath.Glob("../testdata/adapt/ok_*.caddyfiletest")
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		source, _, _ := strings.Cut(string(b), adaptDashes)
		if f := caddyfile.Format([]byte(source)); strings.TrimSpace(string(f)) != source {
			t.Errorf("%s: caddy fmt would write:\n%s", file, f)
		}
	}
}

// TestProvisionRefusesBadJSON is about configurations that did not come by way
// of a Caddyfile.
func TestProvisionRefusesBadJSON(t *testing.T) {
	t.Setenv("KEYTOLL_ADAPT_SHORT", "c2hvcnQ=")
	limits := strings.TrimSuffix(strings.Repeat(`{"requests":1,"window":"1s"},`, 65), ",")
	rates := strings.TrimSuffix(strings.Repeat(`{"requests":1,"window":"1s"},`, 5), ",")
	for _, c := range []struct{ name, app, gate, want string }{
		{"negative window", `"plans":{"a":{"rates":[{"requests":1,"window":-5}]}}`, ``, "plan a: a window lasts from 1ms to 366d"},
		{"no window", `"plans":{"a":{"rates":[{"requests":1}]}}`, ``, "plan a: a window lasts"},
		{"no requests", `"plans":{"a":{"rates":[{"window":"1s"}]}}`, ``, "plan a: a rate needs at least 1 request"},
		{"negative requests", `"plans":{"a":{"rates":[{"requests":-1,"window":"1s"}]}}`, ``, "number -1"},
		{"absurd requests", `"plans":{"a":{"rates":[{"requests":4000000000,"window":"1s"}]}}`, ``, "at most 1000000000 requests"},
		{"absurd burst", `"plans":{"a":{"rates":[{"requests":1,"burst":1000000000,"window":"1d"}]}}`, ``, "ten years"},
		{"plan name", `"plans":{"a b":{}}`, ``, `plan name "a b"`},
		{"too many rates", `"plans":{"a":{"rates":[` + rates + `]}}`, ``, "at most 4"},
		{"default plan", `"default_plan":"a"`, ``, "default_plan a is not defined"},
		{"tenant id", `"tenants":{"a/b":{}}`, ``, `tenant id "a/b"`},
		{"tenant plan", `"tenants":{"a":{"plan":"x"}}`, ``, "tenant a: plan x is not defined"},
		{"tenant name", `"tenants":{"a":{"name":"x\u0007"}}`, ``, "tenant a: name holds the control character"},
		{"prefix", `"prefixes":[{"prefix":"a-b"}]`, ``, "a-b"},
		{"prefix twice", `"prefixes":[{"prefix":"ak_"},{"prefix":"ak_"}]`, ``, "twice"},
		{"environment", `"prefixes":[{"prefix":"ak_","environment":"` + strings.Repeat("e", 33) + `"}]`, ``, "at most 32 bytes"},
		{"literal master key", `"master_key":"q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA="`, ``, "in every dump of the configuration"},
		{"missing master key", `"master_key":"{env.KEYTOLL_ADAPT_MISSING}"`, ``, "there is no such value"},
		{"short master key", `"master_key":"{env.KEYTOLL_ADAPT_SHORT}"`, ``, "32"},
		{"storage", `"storage":{"backend":"paper"}`, ``, "keytoll.storage.paper"},
		{"throttle", `"throttle_failures":{"requests":1,"window":-1}`, ``, "throttle_failures: a window"},
		{"throttle bits", `"throttle_failures":{"requests":1,"window":"1s","ipv4_bits":33}`, ``, "1 to 32 bits"},
		{"throttle bits below", `"throttle_failures":{"requests":1,"window":"1s","ipv6_bits":-1}`, ``, "1 to 128 bits"},
		{"gc", `"gc":{"percent":5,"memory_limit":1073741824}`, ``, "50 to 1000"},
		{"gc memory", `"gc":{"percent":100}`, ``, "at least 64MiB"},
		{"unknown app field", `"plan":{}`, ``, `unknown field "plan"`},
		{"source", ``, `"sources":["cookie:x"]`, "unknown source"},
		{"source twice", ``, `"sources":["header:a","header:A"]`, "listed twice"},
		{"public", ``, `"public":[{"nope":{}}]`, "public"},
		{"limit rate", ``, `"limits":[{"requests":1,"window":"1s"},{"requests":1,"window":-1}]`, "limit 2: a window"},
		{"limit per", ``, `"limits":[{"requests":1,"window":"1s","per":"planet"}]`, `limit 1: per "planet": want key, tenant or address`},
		{"limit name", ``, `"limits":[{"requests":1,"window":"1s","name":"a\nb"}]`, "printable ASCII"},
		{"limit match", ``, `"limits":[{"requests":1,"window":"1s","match":[{"nope":{}}]}]`, "nope"},
		{"too many limits", ``, `"limits":[` + limits + `]`, "at most 64 limits"},
		{"null limit", ``, `"limits":[null]`, "limit 1"},
		{"inject value", ``, `"inject":[{"header":"X-A","value":"a\r\nb"}]`, "control character"},
		{"inject nul", ``, `"inject":[{"header":"X-A","value":"a\u0000b"}]`, "control character"},
		{"inject name", ``, `"inject":[{"header":"X A","value":"a"}]`, "not a header name"},
		{"inject twice", ``, `"inject":[{"header":"X-A","value":"a"},{"header":"x-a","value":"a"}]`, "twice"},
		{"inject host", ``, `"inject":[{"header":"Connection","value":"a"}]`, "not the gate's to set"},
		{"without", ``, `"without":["X-Other"]`, "only X-Tenant-Id and X-Key-Id"},
		{"upgrade", ``, `"upgrades":["web socket"]`, "name of a protocol"},
		{"rate headers", ``, `"rate_headers":"all"`, "x, draft, both or off"},
		{"errors", ``, `"errors":"html"`, "inline or caddy"},
		{"unknown gate field", ``, `"limit":1`, `unknown field "limit"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := adaptProvision(adaptJSON(c.app, c.gate))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
	if err := adaptProvision(adaptJSON("", "")); err != nil {
		t.Errorf("the frame itself: %v", err)
	}
}

// adaptJSON is a configuration with these members of the app and of a gate.
func adaptJSON(app, gate string) []byte {
	if gate != "" {
		gate = "," + gate
	}
	return fmt.Appendf(nil, `{"admin":{"disabled":true},"apps":{"keytoll":{%s},"http":{"servers":{"s":{
		"listen":["127.0.0.1:0"],"automatic_https":{"disable":true},
		"routes":[{"handle":[{"handler":"keytoll"%s}]}]}}}}}`, app, gate)
}
