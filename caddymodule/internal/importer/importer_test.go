package importer

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/foreign"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/token"
)

const sumHex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

// sink keeps what it is given.
type sink struct {
	keys    []registrar.ImportKey
	batches []int
	refused []Refusal
	answer  func(*registrar.ImportKey) registrar.ImportResult
}

func (s *sink) options() Options {
	return Options{
		Sink: func(_ context.Context, keys []registrar.ImportKey) ([]registrar.ImportResult, error) {
			s.batches = append(s.batches, len(keys))
			s.keys = append(s.keys, keys...)
			results := make([]registrar.ImportResult, len(keys))
			for i := range keys {
				if s.answer != nil {
					results[i] = s.answer(&keys[i])
				}
			}
			return results, nil
		},
		Refused: func(r Refusal) { s.refused = append(s.refused, r) },
	}
}

func ours(t testing.TB) (token.Set, string) {
	set, err := token.NewSet("kt_")
	if err != nil {
		t.Fatal(err)
	}
	secret, err := token.Mint("kt_", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return set, secret.Reveal()
}

func TestCSV(t *testing.T) {
	set, minted := ours(t)
	file := "\ufefftenant, Key ,sha256,hash,hint,name,description,permissions,addresses,rate,expires_at,created_at,last_used_at,metadata,environment,disabled\r\n" +
		`acme,` + minted + `,,,,"Smith, ""Jo""",for tests,read write|admin,192.0.2.7/24 2001:db8::1|::ffff:192.0.2.1,100/1m burst 20,2030-01-31,2020-05-06T07:08:09.9+02:00,1700000000,"{""a"":""1"",""b"":""x;y""}",live,no` + "\r\n" +
		"\r\n" +
		`acme,,` + sumHex + `,,sk_,,,,,,,,,a=1; b = 2=3 ,,yes` + "\n" +
		`beta,,,$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW,,,,,,,,,,,,`
	var s sink
	o := s.options()
	o.Keys = set
	report, err := Run(t.Context(), strings.NewReader(file), o)
	if err != nil || len(s.refused) != 0 {
		t.Fatal(err, s.refused)
	}
	if want := (Report{Lines: 4, Created: 3, Unhinted: 1}); report != want {
		t.Errorf("report %+v, want %+v", report, want)
	}
	k := s.keys[0]
	if k.Secret.Reveal() != minted {
		t.Error("another secret")
	}
	k.Secret = token.Secret{}
	want := registrar.ImportKey{
		Line: 2, Tenant: "acme", Name: `Smith, "Jo"`, Description: "for tests", Permissions: []string{"read", "write", "admin"},
		Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::1/128"), netip.MustParsePrefix("192.0.2.1/32")},
		Rate:      &access.Rate{Requests: 100, Burst: 20, Window: time.Minute},
		Expires:   time.Date(2030, 1, 31, 0, 0, 0, 0, time.UTC), Created: time.Date(2020, 5, 6, 5, 8, 9, 0, time.UTC),
		LastUsed: time.Unix(1700000000, 0).UTC(), Metadata: map[string]string{"a": "1", "b": "x;y"}, Environment: "live",
	}
	if !reflect.DeepEqual(k, want) {
		t.Errorf("read %+v\nwant %+v", k, want)
	}
	if k := s.keys[1]; k.Line != 4 || fmt.Sprintf("%x", k.SHA256) != sumHex || k.Hint != "sk_" || !k.Disabled || k.Metadata["b "] != " 2=3" && k.Metadata["b"] == "" {
		t.Errorf("read %+v", k)
	}
	if k := s.keys[2]; k.Line != 5 || !strings.HasPrefix(k.Hash, "$2b$05$") {
		t.Errorf("read %+v", k)
	}
}

func TestNDJSON(t *testing.T) {
	file := `{"tenant":"acme","sha256":"` + sumHex + `","permissions":["read","write"],"addresses":["10.0.0.0/8"],"metadata":{"a":"1"},"expires_at":1900000000,"disabled":true,"name":null,"description":""}
{"tenant":"acme","key":"sk_live_0123456789","permissions":"read, write","expires_at":"1900000000","metadata":"a=1","disabled":"false"}`
	var s sink
	report, err := Run(t.Context(), strings.NewReader(file), s.options())
	if err != nil || report.Created != 2 || len(s.refused) != 0 {
		t.Fatal(err, report, s.refused)
	}
	a, b := s.keys[0], s.keys[1]
	if !a.Disabled || b.Disabled || b.Secret.Reveal() != "sk_live_0123456789" || a.Line != 1 || b.Line != 2 {
		t.Errorf("read %+v and %+v", a, b)
	}
	if !reflect.DeepEqual(a.Permissions, b.Permissions) || !a.Expires.Equal(b.Expires) || !reflect.DeepEqual(a.Metadata, b.Metadata) || len(a.Addresses) != 1 {
		t.Errorf("lists and texts differ: %+v and %+v", a, b)
	}
}

func TestSalt(t *testing.T) {
	for _, suffix := range []bool{false, true} {
		var s sink
		o := s.options()
		o.Salt, o.SaltSuffix = []byte("pepper"), suffix
		if _, err := Run(t.Context(), strings.NewReader("tenant,sha256\nacme,"+sumHex), o); err != nil || len(s.keys) != 1 {
			t.Fatal(err, s.refused)
		}
		h, err := foreign.Parse(s.keys[0].Hash)
		if err != nil || s.keys[0].SHA256 != nil || strings.HasSuffix(h.Text(), ":suffix") != suffix {
			t.Errorf("%v %v", h.Text(), err)
		}
	}
}

// refusals are lines that are refused, with the field and a part of the message.
func refusals(json func(string) string, wrong string) []struct{ line, field, message string } {
	return []struct{ line, field, message string }{
		{`{"tenant":"acme","key":"` + wrong + `"}`, "key", "wrong checksum"},
		{`{"tenant":"acme","key":"abc"}`, "key", "guessed"},
		{`{"tenant":"acme","key":"has a space"}`, "key", "visible ASCII"},
		{`{"tenant":"acme","key":"` + strings.Repeat("k", token.MaxLen+1) + `"}`, "key", "visible ASCII"},
		{`{"tenant":"acme"}`, "key", "one of key"},
		{`{"tenant":"acme","key":"","hash":null}`, "key", "one of key"},
		{`{"sha256":"` + sumHex + `"}`, "tenant", "needs a tenant"},
		{json(`"key":"sk_live_0123456789"`), "key", "only one of"},
		{json(`"hash":"sha256:00:` + sumHex + `"`), "key", "only one of"},
		{`{"tenant":"acme","sha256":"` + sumHex[1:] + `"}`, "sha256", "64 hex digits"},
		{`{"tenant":"acme","hash":"md5:aaaa"}`, "hash", "unknown form"},
		{`{"tenant":"acme","hash":"$2b$20$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"}`, "hash", "cost 20"},
		{json(`"tenant":"beta"`), "tenant", "twice"},
		{`{"tenant":"../etc","sha256":"` + sumHex + `"}`, "tenant", "want 1 to 64"},
		{json(`"name":"` + strings.Repeat("n", 201) + `"`), "name", "200 bytes"},
		{json(`"name":"a\u0000b"`), "name", "control"},
		{json(`"description":"` + strings.Repeat("n", 1001) + `"`), "description", "1000 bytes"},
		{json(`"permissions":["a b"]`), "permissions", "64 permissions"},
		{json(`"permissions":[1]`), "permissions", "something else than texts"},
		{json(`"permissions":[["a"]]`), "permissions", "something else than texts"},
		{json(`"addresses":["10.0.0.0/33"]`), "addresses", "networks"},
		{json(`"addresses":"fe80::1%eth0"`), "addresses", "networks"},
		{json(`"addresses":["::ffff:10.0.0.0/104"]`), "addresses", "networks"},
		{json(`"rate":"100"`), "rate", "100/1m"},
		{json(`"rate":{"requests":1}`), "rate", "wrong type"},
		{json(`"expires_at":"soon"`), "expires_at", "unix seconds"},
		{json(`"expires_at":1700000000000`), "expires_at", "unix seconds"},
		{json(`"expires_at":1.5`), "expires_at", "unix seconds"},
		{json(`"expires_at":-1`), "expires_at", "unix seconds"},
		{json(`"expires_at":true`), "expires_at", "wrong type"},
		{json(`"metadata":{"a":1}`), "metadata", "something else than texts"},
		{json(`"metadata":{"a":"1","a":"2"}`), "metadata", "twice"},
		{json(`"metadata":"{\"a\":\"1\",\"a\":\"2\"}"`), "metadata", "16 pairs"},
		{json(`"metadata":"{\"a\":\"1\"} x"`), "metadata", "16 pairs"},
		{json(`"metadata":"a=1;a=2"`), "metadata", "16 pairs"},
		{json(`"metadata":"a"`), "metadata", "16 pairs"},
		{json(`"disabled":"maybe"`), "disabled", "true or false"},
		{json(`"disabled":1`), "disabled", "wrong type"},
		{json(`"id":"17"`), "id", "key_"},
		{json(`"environment":"` + strings.Repeat("e", 33) + `"`), "environment", "32 bytes"},
		{json(`"hint":"a b"`), "hint", "visible ASCII"},
		{json(`"expires":"2030-01-31"`), "", "unknown member expires"},
		{json(`"line":7`), "", "unknown member line"},
		{json(`"sk_live_0123456789":"x"`), "", "unknown member"},
		{json(`"name":"x"`) + `{}`, "", "behind"},
		{json(`"name":`), "", "JSON"},
		{"[]", "", "JSON"},
		{"\xff", "", "UTF-8"},
		{json(`"description":"` + strings.Repeat("x", MaxLine) + `"`), "", "longer than"},
	}
}

func TestRefusals(t *testing.T) {
	set, minted := ours(t)
	wrong := []byte(minted)
	wrong[10]++
	if wrong[10] == '9'+1 || wrong[10] == 'Z'+1 || wrong[10] == 'z'+1 {
		wrong[10] = 'A'
	}
	json := func(members string) string { return `{"tenant":"acme","sha256":"` + sumHex + `",` + members + `}` }
	tests := refusals(json, string(wrong))
	var file strings.Builder
	file.WriteString(json(`"name":"first"`) + "\n")
	for _, tt := range tests {
		file.WriteString(tt.line + "\n")
	}
	file.WriteString(json(`"name":"last"`))
	var s sink
	o := s.options()
	o.Keys = set
	report, err := Run(t.Context(), strings.NewReader(file.String()), o)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Report{Lines: len(tests) + 2, Created: 2, Refused: len(tests)}); report != want {
		t.Fatalf("report %+v, want %+v\n%v", report, want, s.refused)
	}
	for i, tt := range tests {
		r := s.refused[i]
		if r.Line != i+2 || r.Field != tt.field || !strings.Contains(r.Message, tt.message) {
			t.Errorf("%.60s: refused as %+v, want field %q and %q", tt.line, r, tt.field, tt.message)
		}
		for _, hidden := range []string{string(wrong), "0123456789", sumHex[1:], "md5", "../etc"} {
			if strings.Contains(r.Message, hidden) {
				t.Errorf("the report holds what stood there: %+v", r)
			}
		}
	}
}

func TestHeader(t *testing.T) {
	tests := []struct{ file, message string }{
		{"", "empty"},
		{"\n\n", "empty"},
		{"key,name\n", "no column tenant"},
		{"tenant,name\n", "no column key"},
		{"tenant,key,expires\n", "column 3: unknown name expires; want key, sha256"},
		{"tenant,key,Key\n", "twice"},
		{"acme,sk_live_0123456789\n", "column 1: unknown name acme"},
		{"sk_live_0123456789,acme\n", "column 1: unknown name;"},
		{"tenant,\"key\n", "does not end"},
		{"tenant;key\n", "want commas between the columns"},
		{strings.Repeat("x", MaxLine+1), "longer than"},
		{"\x00\xff", "unknown name"},
	}
	for _, tt := range tests {
		var s sink
		_, err := Run(t.Context(), strings.NewReader(tt.file), s.options())
		if err == nil || !strings.Contains(err.Error(), tt.message) {
			t.Errorf("%.40q: %v, want %q", tt.file, err, tt.message)
		}
		if err != nil && strings.Contains(err.Error(), "0123456789") {
			t.Errorf("the error holds a key: %v", err)
		}
	}
}

func TestCSVLines(t *testing.T) {
	for line, message := range map[string]string{
		"acme":               "1 columns",
		"acme,a,b":           "3 columns",
		`acme,"x`:            "does not end",
		`acme,"x"y`:          "behind its end",
		`acme,x"y`:           "within a cell",
		`acme,"012345678"""`: "",
	} {
		var s sink
		if _, err := Run(t.Context(), strings.NewReader("tenant,key\n"+line), s.options()); err != nil {
			t.Fatal(err)
		}
		if message == "" && len(s.refused) == 0 && s.keys[0].Secret.Reveal() == `012345678"` {
			continue
		}
		if len(s.refused) != 1 || message == "" || !strings.Contains(s.refused[0].Message, message) {
			t.Errorf("%s: %v, want %q", line, s.refused, message)
		}
	}
}

// What the registrar says of a key counts too, and cannot show a key of ours.
func TestResults(t *testing.T) {
	set, minted := ours(t)
	var s sink
	s.answer = func(k *registrar.ImportKey) registrar.ImportResult {
		switch k.Tenant {
		case "there":
			return registrar.ImportResult{Skipped: true}
		case "none":
			return registrar.ImportResult{Err: &registrar.Error{Field: "tenant", Message: "there is no tenant " + minted}}
		}
		return registrar.ImportResult{}
	}
	o := s.options()
	o.Keys, o.Batch = set, 2
	var seen []Report
	o.Progress = func(r Report) { seen = append(seen, r) }
	report, err := Run(t.Context(), strings.NewReader("tenant,key\nthere,12345678\nnone,12345678\nnew,12345678\nnew,1\n"), o)
	if want := (Report{Lines: 5, Created: 1, Skipped: 1, Refused: 2}); err != nil || report != want {
		t.Errorf("report %+v, %v, want %+v", report, err, want)
	}
	if len(seen) != 2 || seen[1] != report || !reflect.DeepEqual(s.batches, []int{2, 1}) {
		t.Errorf("batches %v, progress %+v", s.batches, seen)
	}
	for _, r := range s.refused {
		if strings.Contains(r.Message, minted) || r.Line != 3 && r.Line != 5 {
			t.Errorf("refused as %+v", r)
		}
	}
}

func TestErrors(t *testing.T) {
	full := errors.New("disk full")
	file := "tenant,key\na,12345678\nb,12345678\nc,12345678\n"
	calls := 0
	o := Options{Batch: 1, Sink: func(_ context.Context, keys []registrar.ImportKey) ([]registrar.ImportResult, error) {
		if calls++; calls == 2 {
			return nil, full
		}
		return make([]registrar.ImportResult, len(keys)), nil
	}}
	report, err := Run(t.Context(), strings.NewReader(file), o)
	if !errors.Is(err, full) || !strings.Contains(err.Error(), "lines 3 to 3") || report.Created != 1 {
		t.Errorf("%+v, %v", report, err)
	}
	o.Sink = func(context.Context, []registrar.ImportKey) ([]registrar.ImportResult, error) { return nil, nil }
	if _, err := Run(t.Context(), strings.NewReader(file), o); err == nil {
		t.Error("no results for a key are no error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	o.Sink = func(_ context.Context, keys []registrar.ImportKey) ([]registrar.ImportResult, error) {
		cancel()
		return make([]registrar.ImportResult, len(keys)), nil
	}
	if report, err := Run(ctx, strings.NewReader(file), o); !errors.Is(err, context.Canceled) || report.Created != 1 {
		t.Errorf("after the end of its context: %+v, %v", report, err)
	}
	broken := &failing{Reader: strings.NewReader(file[:22]), err: full}
	var s sink
	if report, err := Run(t.Context(), broken, s.options()); !errors.Is(err, full) || report.Created != 1 {
		t.Errorf("a file that cannot be read: %+v, %v", report, err)
	}
}

type failing struct {
	*strings.Reader
	err error
}

func (f *failing) Read(b []byte) (int, error) {
	if f.Len() == 0 {
		return 0, f.err
	}
	return f.Reader.Read(b)
}

// Batches are bounded in bytes too.
func TestBatchBytes(t *testing.T) {
	line := "acme,12345678," + strings.Repeat("d", 1000) + "," + strings.Repeat(" ", MaxLine-2000) + "\n"
	var s sink
	report, err := Run(t.Context(), strings.NewReader("tenant,key,description,name\n"+strings.Repeat(line, 100)), s.options())
	if err != nil || report.Created != 100 {
		t.Fatal(report, err)
	}
	for _, n := range s.batches {
		if n > BatchBytes/(MaxLine-1000)+1 {
			t.Errorf("a batch of %d lines of 64 KiB", n)
		}
	}
}

func TestAppend(t *testing.T) {
	keys := []registrar.ImportKey{
		{Line: 7, Tenant: "acme", Secret: token.Wrap(`<sk>&"\_0123456789`)},
		{Line: 9, Tenant: "acme", SHA256: bytes.Repeat([]byte{7}, 32), Hint: "sk_", ID: "key_0123456789abcdef", Disabled: true},
		{Line: 12, Tenant: "b", Hash: "sha256:00:" + sumHex, Name: "é \"x\"", Description: "d", Permissions: []string{"a|b", "c"},
			Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Rate: &access.Rate{Requests: 5, Burst: 9, Window: time.Hour},
			Expires: time.Unix(1900000000, 0).UTC(), Created: time.Unix(1600000000, 0).UTC(), LastUsed: time.Unix(1700000000, 0).UTC(),
			Metadata: map[string]string{"k": "<v>"}, Environment: "live"},
	}
	var file []byte
	for i := range keys {
		file = Append(file, &keys[i])
	}
	var s sink
	o := s.options()
	o.Wire = true
	if report, err := Run(t.Context(), bytes.NewReader(file), o); err != nil || report.Created != len(keys) {
		t.Fatal(report, err, s.refused)
	}
	for i := range keys {
		if keys[i].Secret.Reveal() != s.keys[i].Secret.Reveal() {
			t.Error("another secret")
		}
		keys[i].Secret, s.keys[i].Secret = token.Secret{}, token.Secret{}
	}
	if !reflect.DeepEqual(keys, s.keys) {
		t.Errorf("read %+v\nwant %+v", s.keys, keys)
	}
}

// Whatever a file holds, neither errors nor refusals show a key of it, and what
// gets through can be written and read again.
func FuzzRun(f *testing.F) {
	const secret = "S3cr3tS3cr3tS3cr3tS3cr3t"
	f.Add("tenant,key,name\nacme,%,x\n", "")
	f.Add(`{"tenant":"acme","key":"%","metadata":{"%":"%"}}`, "")
	f.Add("tenant,sha256,permissions\n%,"+sumHex+",% %|\n", "salt")
	f.Add("%,%\n%,%\n", "")
	f.Add(`{"%":1}`, "")
	f.Fuzz(func(t *testing.T, file, salt string) {
		var s sink
		o := s.options()
		o.Salt = []byte(salt)
		_, err := Run(t.Context(), strings.NewReader(strings.ReplaceAll(file, "%", secret)), o)
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Fatal(err)
		}
		for _, r := range s.refused {
			if strings.Contains(fmt.Sprint(r), secret) {
				t.Fatal(r)
			}
		}
		var wire []byte
		for i := range s.keys {
			wire = Append(wire, &s.keys[i])
		}
		if len(s.keys) == 0 {
			return
		}
		var again sink
		ao := again.options()
		ao.Wire = true
		if report, err := Run(t.Context(), bytes.NewReader(wire), ao); err != nil || report.Created != len(s.keys) {
			t.Fatal(report, err, again.refused)
		}
	})
}

func BenchmarkRead(b *testing.B) {
	var csv, nd strings.Builder
	csv.WriteString("tenant,sha256,name,permissions,expires_at\n")
	const n = 5000
	for range n {
		csv.WriteString("acme," + sumHex + ",laptop,read write,2030-01-31T00:00:00Z\n")
		nd.WriteString(`{"tenant":"acme","sha256":"` + sumHex + `","name":"laptop","permissions":["read","write"],"expires_at":"2030-01-31T00:00:00Z"}` + "\n")
	}
	results := make([]registrar.ImportResult, BatchKeys)
	o := Options{Sink: func(_ context.Context, keys []registrar.ImportKey) ([]registrar.ImportResult, error) {
		return results[:len(keys)], nil
	}}
	for name, file := range map[string]string{"csv": csv.String(), "ndjson": nd.String()} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if report, err := Run(b.Context(), strings.NewReader(file), o); err != nil || report.Created != n {
					b.Fatal(report, err)
				}
			}
			b.ReportMetric(float64(b.N)*n/b.Elapsed().Seconds(), "keys/s")
		})
	}
}
