package caddymodule

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/logging"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/keytoll/keytoll/caddymodule/token"
)

const filterPrefix = "lf_test_"

// plantKey mints a key and makes the filter know its prefix, the header
// X-Custom-Key and the parameter k.
func plantKey(t testing.TB) string {
	t.Helper()
	set, err := token.NewSet(filterPrefix)
	if err != nil {
		t.Fatal(err)
	}
	registerRedaction([]string{"X-Custom-Key"}, []string{"k"}, set)
	s, err := token.Mint(filterPrefix, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return s.Reveal()
}

// filterEncoder returns Caddy's filter encoder around the named format, with
// the keytoll filter on each of fields.
func filterEncoder(t testing.TB, format string, fields ...string) zapcore.Encoder {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	fe := &logging.FilterEncoder{
		WrappedRaw: json.RawMessage(`{"format":"` + format + `"}`),
		FieldsRaw:  make(map[string]json.RawMessage),
	}
	for _, f := range fields {
		fe.FieldsRaw[f] = json.RawMessage(`{"filter":"keytoll"}`)
	}
	if err := fe.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	return fe
}

// logLines writes fields through enc in both ways that Caddy does: with the
// entry, and added to the logger beforehand.
func logLines(enc zapcore.Encoder, fields ...zap.Field) string {
	var out bytes.Buffer
	l := zap.New(zapcore.NewCore(enc, zapcore.AddSync(&out), zap.DebugLevel))
	l.Info("entry", fields...)
	l.WithLazy(fields...).Info("lazy")
	l.With(fields...).Info("eager")
	return out.String()
}

func TestLogFilterHidesEveryCredential(t *testing.T) {
	key := plantKey(t)
	secrets := []string{key[len(filterPrefix)+6:]}
	secret := func(s string) string { secrets = append(secrets, s); return s }
	r := httptest.NewRequest("GET", "/v1/things?a=ordinary-query&k="+secret("sec01")+"&api_key="+secret("sec02")+
		"&API-KEY="+secret("sec03")+"&apikey="+secret("sec04")+"&access_token="+secret("sec05")+
		"&api%5Fkey="+secret("sec06")+"&plain="+key+"&z=last", nil)
	r.RequestURI = r.URL.RequestURI()
	for i, name := range []string{
		"Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie", "X-API-Key", "Api-Key", "X-Auth-Token",
		"X-Provider-Key-Openai", "x-provider-key-", "X_Provider.Key-Other", "X-Custom-Key", "x_custom_key", "X.API.KEY", "x-api-key",
	} {
		r.Header[name] = []string{secret(fmt.Sprintf("hdr%02da", i)), secret(fmt.Sprintf("hdr%02db", i))}
	}
	encoded := strings.ReplaceAll(key, "_", "%5F")
	r.Header["Referer"] = []string{"https://app.example/page?api_key=" + secret("ref01") + "&tab=billing"}
	r.Header["X-Forwarded-Uri"] = []string{"/p?next=" + url.QueryEscape("/q?api_key="+secret("ref02"))}
	r.Header["X-Original-Url"] = []string{"/p/" + encoded, "/p?x=" + url.QueryEscape(encoded)}
	r.Header["Link"] = []string{"<https://h.example/?k=" + secret("ref03") + ">, </x?m=1,api_key=" + secret("ref04") + ">"}
	r.Header["X-Note"] = []string{"my key is " + key + "!", "ordinary-note"}
	r.Header[key] = []string{"named after a key"}
	r.Header["User-Agent"] = []string{"ordinary-agent/1.0 (a=b; c%20d)"}
	secrets = append(secrets, encoded[len(encoded)-30:])

	for _, format := range []string{"json", "console"} {
		for _, logCredentials := range []bool{false, true} {
			got := logLines(filterEncoder(t, format, "request"),
				zap.Object("request", caddyhttp.LoggableHTTPRequest{Request: r, ShouldLogCredentials: logCredentials}))
			for _, s := range secrets {
				if strings.Contains(got, s) {
					t.Errorf("%s, credentials %v: %q is in the log", format, logCredentials, s)
				}
			}
			for _, s := range []string{
				"ordinary-query", "z=last", "ordinary-agent/1.0 (a=b; c%20d)", "ordinary-note", "tab=billing",
				"https://app.example/page?api_key=REDACTED", "/v1/things?a=", key[:len(filterPrefix)+6] + "…", `"remote_ip"`,
			} {
				if !strings.Contains(unescapeJSON(got), s) {
					t.Errorf("%s: %q is not in the log:\n%s", format, s, got)
				}
			}
			if n := strings.Count(got, "\n"); n != 3 {
				t.Errorf("%s: %d lines, want 3", format, n)
			}
		}
	}
}

// unescapeJSON undoes the escaping of '&', '<' and '>'.
func unescapeJSON(s string) string {
	return strings.NewReplacer(`\u0026`, "&", `\u003c`, "<", `\u003e`, ">").Replace(s)
}

func TestLogFilterOnParts(t *testing.T) {
	key := plantKey(t)
	r := httptest.NewRequest("GET", "/?api_key=query-secret", nil)
	r.Header.Set("X-API-Key", "header-secret")
	r.Header.Set("Accept", "text/plain")
	request := zap.Object("request", caddyhttp.LoggableHTTPRequest{Request: r})
	response := zap.Object("resp_headers", caddyhttp.LoggableHTTPHeader{Header: http.Header{
		"Location": {"/?k=location-secret"}, "X-Api-Key": {"echo-secret"}, "Server": {"Caddy"},
	}})
	for _, c := range []struct {
		fields       []string
		hides, shows []string
	}{
		{nil, nil, []string{"query-secret", "header-secret", "location-secret", "echo-secret"}},
		{[]string{"request>headers"}, []string{"header-secret"}, []string{"query-secret", "text/plain"}},
		{[]string{"request>uri"}, []string{"query-secret"}, []string{"header-secret", "api_key=REDACTED"}},
		{[]string{"request>headers", "request>uri"}, []string{"query-secret", "header-secret"}, []string{"text/plain"}},
		{[]string{"request>headers>X-Api-Key"}, []string{"header-secret"}, []string{"text/plain"}},
		{[]string{"request", "resp_headers"}, []string{"query-secret", "header-secret", "location-secret", "echo-secret"}, []string{"Caddy", "k=REDACTED"}},
		{[]string{"err"}, []string{key}, []string{"no good"}},
	} {
		for _, format := range []string{"json", "console"} {
			got := logLines(filterEncoder(t, format, c.fields...), request, response, zap.NamedError("err", errors.New("no good: "+key)))
			for _, s := range c.hides {
				if strings.Contains(got, s) {
					t.Errorf("%s with filter on %q shows %s", format, c.fields, s)
				}
			}
			for _, s := range c.shows {
				if !strings.Contains(got, s) {
					t.Errorf("%s with filter on %q does not show %s:\n%s", format, c.fields, s, got)
				}
			}
		}
	}
}

// oneOfEach has a field of every kind that can hold text.
type oneOfEach struct{ key string }

func (o oneOfEach) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	enc.AddByteString("bytes", []byte("b "+o.key))
	enc.AddBinary("binary", []byte("c "+o.key))
	enc.AddBinary("harmless", []byte{1, 2, 3})
	enc.AddInt("number", 42)
	return errors.Join(
		enc.AddReflected("reflected", map[string]any{"in": []string{o.key}, "X-API-Key": "named-secret", "n": 1e15, o.key: true}),
		enc.AddReflected("x-api-key", "named-secret"),
		enc.AddReflected("impossible", func() {}),
		enc.AddObject("nested", zapcore.ObjectMarshalerFunc(func(enc zapcore.ObjectEncoder) error {
			enc.AddString("Cookie", "named-secret")
			return enc.AddObject("Authorization", zapcore.ObjectMarshalerFunc(func(enc zapcore.ObjectEncoder) error {
				enc.AddString("token", "named-secret")
				return nil
			}))
		})),
		enc.AddArray("array", zapcore.ArrayMarshalerFunc(func(enc zapcore.ArrayEncoder) error {
			enc.AppendByteString([]byte(o.key))
			enc.AppendInt(43)
			return errors.Join(enc.AppendReflected([]string{o.key}), enc.AppendArray(caddyhttp.LoggableStringArray{o.key}),
				enc.AppendObject(zapcore.ObjectMarshalerFunc(func(enc zapcore.ObjectEncoder) error {
					enc.AddString("deep", o.key)
					return nil
				})))
		})),
	)
}

func TestLogFilterHidesInEveryKindOfField(t *testing.T) {
	key := plantKey(t)
	got := logLines(filterEncoder(t, "json", "f", "g"), zap.Object("f", oneOfEach{key}), zap.Any("g", http.Header{"X-Api-Key": {"named-secret"}, "Ok": {key}}))
	for _, s := range []string{key, key[len(filterPrefix)+6:], "named-secret", "YyBsZl90"} { // the last is base64 of the binary field
		if strings.Contains(got, s) {
			t.Errorf("%q is in the log:\n%s", s, got)
		}
	}
	for _, s := range []string{`"number":42`, `43`, `"harmless":"AQID"`, `"n":1000000000000000`, `"deep"`, `"impossible":"REDACTED"`} {
		if !strings.Contains(got, s) {
			t.Errorf("%q is not in the log:\n%s", s, got)
		}
	}
	for line := range strings.Lines(got) {
		if !json.Valid([]byte(line)) {
			t.Errorf("not JSON: %s", line)
		}
	}
}

func TestRedactText(t *testing.T) {
	key := plantKey(t)
	short := key[:len(filterPrefix)+6] + "…"
	hide := redactions.Load()
	deep := "/?api_key=deep-secret"
	for range maxNesting + 3 {
		deep = "/?u=" + url.QueryEscape(deep)
	}
	for in, want := range map[string]string{
		"":                            "",
		"/":                           "/",
		"/a?b=c&d=e":                  "/a?b=c&d=e",
		"/a?api_key=":                 "/a?api_key=",
		"/a?api_key=x":                "/a?api_key=REDACTED",
		"/a?api_key=x=y&b":            "/a?api_key=REDACTED&b",
		"/a?b&api_key=x#api_key=y":    "/a?b&api_key=REDACTED#api_key=REDACTED",
		"/a;api_key=x":                "/a;api_key=REDACTED",
		"/a?my_api_key=x":             "/a?my_api_key=x",
		"/a?key=x&api_keys=y":         "/a?key=x&api_keys=y",
		"/a?%61pi_key=x":              "/a?%61pi_key=REDACTED",
		"/a?%zz=%":                    "/a?%zz=%",
		"/a?q=50%25+off":              "/a?q=50%25+off",
		"/" + key + "/x":              "/" + short + "/x",
		"/a?q=" + key + "&r=" + key:   "/a?q=" + short + "&r=" + short,
		"/%6c" + key[1:] + "?x=1":     "REDACTED?x=1",
		"/a?%6c" + key[1:] + "=1&x=1": "/a?REDACTED&x=1",
		"/a?b=%6c" + key[1:]:          "/a?b=REDACTED",
		deep:                          "/?u=REDACTED",
	} {
		if got := hide.text(in); got != want {
			t.Errorf("text(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzRedactText(f *testing.F) {
	key := plantKey(f)
	for _, s := range []string{"/a?api_key=x", "%%%", "=&;?#", "a=b=c", key, "/?u=%2F%3Fk%3D1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		hide := redactions.Load()
		if got := hide.text("/a?" + s + "&api_key=" + "planted\x00"); strings.Contains(got, "planted\x00") {
			t.Errorf("%q shows the parameter: %q", s, got)
		}
		if got := hide.text(s + key + s); strings.Contains(got, key) {
			t.Errorf("%q shows the key: %q", s, got)
		}
	})
}

func TestRegisterRedactionGrowsOnly(t *testing.T) {
	set, err := token.NewSet("grow_")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			registerRedaction([]string{fmt.Sprintf("X-Grow-%d", i), "X-Same"}, []string{fmt.Sprint("grow", i)}, set)
		})
	}
	wg.Wait()
	before := redactions.Load()
	for i := range 8 {
		if !before.header(fmt.Sprintf("x_grow.%d", i)) || !before.queryName(fmt.Sprint("GROW", i)) {
			t.Errorf("the names of gate %d were lost", i)
		}
	}
	registerRedaction([]string{"x_same", ""}, []string{"grow1"}, set)
	if redactions.Load() != before {
		t.Error("registering known names again replaced the redaction")
	}
}

func TestLogFilterCaddyfile(t *testing.T) {
	var fe logging.FilterEncoder
	d := caddyfile.NewTestDispenser("filter {\n wrap json\n request keytoll\n resp_headers keytoll\n}")
	if err := fe.UnmarshalCaddyfile(d); err != nil {
		t.Fatal(err)
	}
	if got := string(fe.FieldsRaw["request"]); got != `{"filter":"keytoll"}` {
		t.Errorf("request filter is %s", got)
	}
	for _, bad := range []string{"keytoll now", "keytoll {\n now\n}"} {
		err := new(LogFilter).UnmarshalCaddyfile(caddyfile.NewTestDispenser(bad))
		if err == nil || !strings.Contains(err.Error(), `"now"`) {
			t.Errorf("%q: error is %v, want one that names the word", bad, err)
		}
	}
}

func TestUnfiltered(t *testing.T) {
	var out bytes.Buffer
	core := func(enc zapcore.Encoder) zapcore.Core {
		return zapcore.NewCore(enc, zapcore.AddSync(&out), zap.InfoLevel)
	}
	stock := func(filter string, fields ...string) zapcore.Core {
		fe := filterEncoder(t, "json", "request").(*logging.FilterEncoder)
		clear(fe.Fields)
		for _, f := range fields {
			fe.Fields[f] = map[string]logging.LogFieldFilter{"delete": logging.DeleteFilter{}, "replace": &logging.ReplaceFilter{Value: "x"}}[filter]
		}
		return core(fe)
	}
	whole, headers := core(filterEncoder(t, "json", "request")), core(filterEncoder(t, "console", "request>headers"))
	uri, none, bare := core(filterEncoder(t, "json", "request>uri")), core(filterEncoder(t, "json")), core(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()))
	for name, c := range map[string]struct {
		core zapcore.Core
		want bool
	}{
		"whole request":          {whole, false},
		"headers alone":          {headers, false},
		"uri alone":              {uri, true},
		"filter of nothing":      {none, true},
		"json":                   {bare, true},
		"nop":                    {zapcore.NewNopCore(), false},
		"two filtered sinks":     {zapcore.NewTee(whole, headers), false},
		"one of two filtered":    {zapcore.NewTee(whole, bare), true},
		"the other of two":       {zapcore.NewTee(none, headers), true},
		"sampled, filtered":      {zapcore.NewSamplerWithOptions(whole, 1, 1, 1), false},
		"sampled, not filtered":  {zapcore.NewSamplerWithOptions(bare, 1, 1, 1), true},
		"request deleted":        {stock("delete", "request"), false},
		"headers deleted":        {stock("delete", "request>headers"), false},
		"headers replaced":       {stock("replace", "request>headers"), false},
		"one header deleted":     {stock("delete", "request>headers>X-Api-Key"), true},
		"another header deleted": {stock("delete", "request>uri"), true},
	} {
		l := zap.New(c.core).Named("http.log.access").With(zap.String("x", "y"))
		if got := unfiltered(l); got != c.want {
			t.Errorf("%s: unfiltered = %v, want %v", name, got, c.want)
		}
	}
	if out.Len() > 0 {
		t.Errorf("the probe wrote %s", &out)
	}
}

func TestUnfilteredLogKnowsNames(t *testing.T) {
	filtered := `"encoder":{"format":"filter","fields":{"request":{"filter":"keytoll"}}}`
	cfg := &caddy.Config{
		Admin: &caddy.AdminConfig{Disabled: true, Config: &caddy.ConfigSettings{Persist: new(bool)}},
	}
	file := fmt.Sprintf(`"writer":{"output":"file","filename":%q}`, filepath.Join(t.TempDir(), "log"))
	err := json.Unmarshal([]byte(`{"logs":{
		"default":{`+file+`,"exclude":["http.log.access.open"],`+filtered+`},
		"open":{`+file+`,"include":["http.log.access.open"],"encoder":{"format":"json"}},
		"closed":{`+file+`,"include":["http.log.access.closed"],`+filtered+`}
	}}`), &cfg.Logging)
	if err != nil {
		t.Fatal(err)
	}
	ctx, err := caddy.ProvisionContext(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"http.log.access.open": true, "http.log.access.closed": false, "http.log.error": false, "http.log.access": true,
	} {
		if got := unfilteredLog(ctx, name); got != want {
			t.Errorf("%s: unfiltered = %v, want %v", name, got, want)
		}
	}
}

func BenchmarkLogFilter(b *testing.B) {
	plantKey(b)
	r := httptest.NewRequest("GET", "/v1/things?page=2&api_key=x", nil)
	for _, h := range []string{"Accept", "User-Agent", "Authorization", "X-Request-Id", "Accept-Encoding"} {
		r.Header.Set(h, "some ordinary value of a header")
	}
	for _, fields := range [][]string{nil, {"request"}} {
		enc := filterEncoder(b, "json", fields...)
		b.Run(fmt.Sprint("on=", fields), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				buf, err := enc.EncodeEntry(zapcore.Entry{}, []zap.Field{zap.Object("request", caddyhttp.LoggableHTTPRequest{Request: r})})
				if err != nil {
					b.Fatal(err)
				}
				buf.Free()
			}
		})
	}
}
