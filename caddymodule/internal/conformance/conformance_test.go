package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

func load(t testing.TB, text string) *File {
	t.Helper()
	f, err := Load(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func serve(t testing.TB, h http.HandlerFunc) string {
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}

// one runs a file of one step against an answer and returns what differs.
func one(t *testing.T, status int, header, body, expect string) []string {
	t.Helper()
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if name, value, ok := strings.Cut(header, ": "); ok {
			w.Header()[name] = strings.Split(value, " + ")
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	})
	f := load(t, "vars: {who: ann, dots: a.c}\nsteps:\n- name: x\n  request: {path: /}\n  expect: "+expect)
	rep, err := Run(t.Context(), f, Options{BaseURL: url})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, d := range rep.Steps[0].Differences {
		out = append(out, fmt.Sprintf("%s: %s / %s", d.Where, d.Want, d.Got))
	}
	return out
}

func TestCompare(t *testing.T) {
	for _, c := range []struct {
		name, body, template string
		want                 []string // nil: the same
	}{
		{"literals", `{"b":true,"a":1,"c":null,"d":"x"}`, `{a: 1, b: true, c: null, d: x}`, nil},
		{"number as text", `{"a":"1"}`, `{a: 1}`, []string{`body/a: 1 / "1"`}},
		{"text as number", `{"a":1}`, `{a: "1"}`, []string{`body/a: "1" / 1`}},
		{"numbers by value", `[1.0, 1e2, 9007199254740993]`, `[1, 100, 9007199254740993]`, nil},
		{"large numbers by digits", `[9007199254740993]`, `[9007199254740992]`, []string{`body/0: 9007199254740992 / 9007199254740993`}},
		{"null is not missing", `{}`, `{a: null}`, []string{`body/a: null / no such member`}},
		{"extra", `{"a":1,"b":2}`, `{a: 1}`, []string{`body/b: no such member / 2`}},
		{"exact", `{"a":1,"b":2}`, `{a: 1, "{{exact}}": true}`, []string{`body/b: no such member / 2`}},
		{"more", `{"a":1,"b":2}`, `{a: 1, "{{more}}": true}`, nil},
		{"more is not inherited", `{"a":{"b":2}}`, `{a: {}, "{{more}}": true}`, []string{`body/a/b: no such member / 2`}},
		{"absent", `{"a":1}`, `{a: "{{absent}}", "{{more}}": true}`, []string{`body/a: no such member / 1`}},
		{"absent indeed", `{}`, `{a: "{{absent}}"}`, nil},
		{"case of names", `{"Name":1}`, `{name: 1}`, []string{`body/name: 1 / no such member`, `body/Name: no such member / 1`}},
		{"types", `["a",1,1.5,true,null,{}]`, `["{{string}}","{{integer}}","{{number}}","{{bool}}","{{null}}","{{any}}"]`, nil},
		{"no integer", `[1.5,"1"]`, `["{{integer}}","{{integer}}"]`, []string{`body/0: {{integer}} / 1.5`, `body/1: {{integer}} / "1"`}},
		{"no string", `[null]`, `["{{string}}"]`, []string{`body/0: {{string}} / null`}},
		{"times", `["2025-01-15T10:30:00Z",null,"2025-01-15T10:30:00+01:00"]`, `["{{time}}","{{time_or_null}}","{{time_or_null}}"]`, nil},
		{"no time", `["2025-01-15","",0]`, `["{{time}}","{{time_or_null}}","{{time}}"]`,
			[]string{`body/0: {{time}} / "2025-01-15"`, `body/1: {{time_or_null}} / ""`, `body/2: {{time}} / 0`}},
		{"unquoted time of YAML", `{"t":"2099-01-01T00:00:00Z"}`, `{t: 2099-01-01T00:00:00Z}`, nil},
		{"expression", `["key_ab12","xkey_ab"]`, `["{{match key_[a-z0-9]{4}}}","{{match key_.*}}"]`, []string{`body/1: {{match key_.*}} / "xkey_ab"`}},
		{"variable", `["ann","hi ann!","abc"]`, `["{{who}}","hi {{who}}!","{{dots}}"]`, []string{`body/2: "a.c" / "abc"`}},
		{"variable beside a word", `["a.c-7","abc-7"]`, `["{{dots}}-{{integer}}","{{dots}}-{{integer}}"]`, []string{`body/1: "a.c-{{integer}}" / "abc-7"`}},
		{"alternatives stay together", `["xab"]`, `["{{match a|b}}b"]`, []string{`body/0: "{{match a|b}}b" / "xab"`}},
		{"array length", `[1,2]`, `[1]`, []string{`body: an array of 1 / an array of 2`}},
		{"order", `[2,1]`, `[1,2]`, []string{`body/0: 1 / 2`, `body/1: 2 / 1`}},
		{"each", `[{"a":1},{"a":"x"}]`, `{"{{each}}": {a: "{{integer}}"}}`, []string{`body/1/a: {{integer}} / "x"`}},
		{"contains", `[{"a":1},{"a":2}]`, `{"{{contains}}": {a: 2}}`, nil},
		{"contains not", `[{"a":1}]`, `{"{{contains}}": {a: 2}}`, []string{`body: an element that is {"a": 2} / [{"a":1}]`}},
		{"both", `[]`, `{"{{each}}": {}, "{{contains}}": "{{any}}"}`, []string{`body: an element that is {{any}} / []`}},
		{"no object", `[]`, `{a: 1}`, []string{`body: an object / []`}},
		{"no array", `{}`, `[]`, []string{`body: an array / {}`}},
		{"pointer", `{"a/b":{"~":1}}`, `{a/b: {"~": 2}}`, []string{`body/a~1b/~0: 2 / 1`}},
		{"no JSON", `<html>`, `{}`, []string{`body: JSON / "<html>": invalid character '<' looking for beginning of value`}},
		{"empty", ``, `{}`, []string{`body: JSON / "": the body is empty`}},
		{"two values", `{} {}`, `{}`, []string{`body: JSON / "{} {}": something follows the JSON value`}},
		{"a member twice", `{"a":1,"a":1}`, `{a: 1}`, []string{`body: JSON / "{\"a\":1,\"a\":1}": the member "a" is there twice`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := one(t, 200, "", c.body, "{status: 200, json: "+c.template+"}"); !slices.Equal(got, c.want) {
				t.Errorf("differences\n%q\nwant\n%q", got, c.want)
			}
		})
	}
}

func TestCompareStatusHeadersAndBody(t *testing.T) {
	for _, c := range []struct {
		name, header, body, expect string
		want                       []string
	}{
		{"status", "", "no such thing\n", "{status: 201}", []string{"status: 201 / 200 with the body no such thing"}},
		{"one of", "", "", "{status: [200, 201]}", nil},
		{"header", "X-A: 7", "", `{status: 200, headers: {x-a: 7}}`, nil},
		{"header of a pattern", "X-A: /k/key_1", "", `{status: 200, headers: {X-A: "/k/{{match key_.}}"}}`, nil},
		{"no header", "", "", `{status: 200, headers: {X-A: "{{any}}"}}`, []string{"header X-A: {{any}} / no such header"}},
		{"other value", "X-A: 8", "", `{status: 200, headers: {X-A: "{{who}}"}}`, []string{"header X-A: ann / 8"}},
		{"one of two values", "X-A: 7 + 8", "", `{status: 200, headers: {X-A: 8}}`, nil},
		{"absent", "X-A: 7", "", `{status: 200, headers: {X-A: "{{absent}}", X-B: "{{absent}}"}}`, []string{"header X-A: no such header / 7"}},
		{"integer", "X-A: 7s", "", `{status: 200, headers: {X-A: "{{integer}}"}}`, []string{"header X-A: {{integer}} / 7s"}},
		{"body", "", "a\nb", `{status: 200, body: "a\n{{any}}"}`, nil},
		{"other body", "", "b", `{status: 200, body: ""}`, []string{`body: "" / "b"`}},
		{"too long", "", strings.Repeat("x", maxAnswer+1), "{status: 200}", []string{"body: at most 1048576 bytes / more"}},
		{"just as long", "", strings.Repeat("x", maxAnswer), "{status: 200}", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := one(t, 200, c.header, c.body, c.expect); !slices.Equal(got, c.want) {
				t.Errorf("differences\n%q\nwant\n%q", got, c.want)
			}
		})
	}
}

func TestRequest(t *testing.T) {
	var got []string
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got = append(got, strings.Join([]string{r.Method, r.RequestURI, r.Host, r.Header.Get("Content-Type"), r.Header.Get("X-A"), string(b)}, "|"))
	})
	f := load(t, `
vars: {id: k1, text: 'a"b'}
steps:
- {name: a, request: {path: "/v1/{{id}}?x={{id}}", headers: {Host: api.test, X-A: "b {{id}}"}}, expect: {status: 200}}
- {name: b, request: {path: /, json: {n: 1, t: "{{text}}", l: [null, true, {x: "{{id}}"}]}}, expect: {status: 200}}
- {name: c, request: {path: /, method: PUT, body: "raw {{id}}", headers: {Content-Type: text/plain}}, expect: {status: 200}}
- {name: d, request: {path: /, form: {a: "x y", b: "{{id}}"}}, expect: {status: 200}}
- {name: e, request: {path: /, method: DELETE}, expect: {status: 200}, repeat: 2}
- {name: f, request: {path: /, json: {}, headers: {Content-Type: application/merge-patch+json}, method: PATCH}, expect: {status: 200}}
`)
	rep, err := Run(t.Context(), f, Options{BaseURL: url + "/base/"})
	if err != nil || !rep.OK() {
		t.Fatal(err, rep)
	}
	host := strings.TrimPrefix(url, "http://")
	want := []string{
		"GET|/base/v1/k1?x=k1|api.test||b k1|",
		`POST|/base/|` + host + `|application/json||{"l":[null,true,{"x":"k1"}],"n":1,"t":"a\"b"}`,
		"PUT|/base/|" + host + "|text/plain||raw k1",
		"POST|/base/|" + host + "|application/x-www-form-urlencoded||a=x+y&b=k1",
		"DELETE|/base/|" + host + "|||", "DELETE|/base/|" + host + "|||",
		"PATCH|/base/|" + host + "|application/merge-patch+json||{}",
	}
	if !slices.Equal(got, want) {
		t.Errorf("sent\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestSaveAndLater(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "/keys/7")
		_, _ = fmt.Fprintf(w, `{"id":{"n":7},"path":%q,"list":["a"]}`, r.URL.Path)
	})
	f := load(t, `
steps:
- {name: a, request: {path: /}, expect: {status: 200}, save: {id: /id/n, item: /list/0, where: Location}}
- {name: b, request: {path: "{{where}}/{{id}}/{{item}}"}, expect: {status: 200, json: {path: /keys/7/7/a, "{{more}}": true}}}
- {name: c, later: credits, sentence: Usage headers.}
- {name: d, request: {path: /}, expect: {status: 200}, save: {gone: /id/m, whole: /id}}
- {name: e, request: {path: "/{{gone}}"}, expect: {status: 200}}
`)
	rep, err := Run(t.Context(), f, Options{BaseURL: url})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := rep.Write(&out); err != nil {
		t.Fatal(err)
	}
	const want = `same   a
same   b
later  c (credits)
differ d
       save gone: want /id/m, got no such text in the answer with the body {"id":{"n":7},"path":"/","list":["a"]}
       save whole: want /id, got no such text in the answer
differ e
       variable gone: want a value, got none: the step that saves it did not
2 the same, 2 different, 1 later
`
	if out.String() != want {
		t.Errorf("report\n%s\nwant\n%s", &out, want)
	}
	if rep.OK() {
		t.Error("OK with differences")
	}
}

func TestAttemptsAndRepeat(t *testing.T) {
	n := 0
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if n++; n > 5 {
			w.WriteHeader(http.StatusTooManyRequests)
		}
	})
	rep, err := Run(t.Context(), load(t, `
steps:
- {name: below, repeat: 5, request: {path: /}, expect: {status: 200}}
- {name: above, attempts: 9, request: {path: /}, expect: {status: 429}}
- {name: never, attempts: 3, request: {path: /}, expect: {status: 200}}
- {name: too many, repeat: 3, request: {path: /}, expect: {status: 200}}
`), Options{BaseURL: url})
	if err != nil {
		t.Fatal(err)
	}
	if n != 10 { // 5 + 1 + 3 + 1
		t.Errorf("%d requests were sent, want 10", n)
	}
	if d := rep.Steps[3].Differences; len(d) != 1 || d[0].Where != "status (request 1 of 3)" {
		t.Errorf("%+v", d)
	}
	if same, different, _ := rep.Count(); same != 2 || different != 2 {
		t.Errorf("%+v", rep)
	}
}

// No value of a credential and of a secret variable is in a report, however
// the answer has it.
func TestSecretsAreNotPrinted(t *testing.T) {
	const given, made, header = `s3cr&t"giv/en`, "psk_made0123456789", "psk_in_header_only"
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Echo", r.Header.Get("X-Secret")+" "+r.Header.Get("Authorization"))
		switch r.URL.Path {
		case "/moved": // the secret is not where the file says
			_, _ = fmt.Fprintf(w, `{"data":{"key":%q}}`, made)
		case "/bad":
			_, _ = io.WriteString(w, made)
		default:
			w.WriteHeader(http.StatusTeapot)
			_, _ = fmt.Fprintf(w, `{"key":%q,"given":%q,"auth":%q,"query":%q}`, made, given, r.Header.Get("Authorization"), r.URL.RawQuery)
		}
	})
	f := load(t, `
vars: {given: ""}
secrets: [given, made, other, third]
steps:
- name: a
  request: {path: "/", headers: {Authorization: "Bearer psk_in_header_only", X-Secret: "{{given}}"}}
  expect: {status: 200, headers: {X-Echo: none}, json: {key: x}}
  save: {made: /key}
- {name: b, request: {path: /, headers: {Authorization: "{{made}}"}}, expect: {status: 200, body: "{{given}} {{made}}"}}
- {name: c, request: {path: /moved}, expect: {status: 201, json: {key: "{{string}}"}}, save: {other: /key}}
- {name: d, request: {path: /bad}, expect: {status: 201, json: {key: "{{string}}"}}, save: {third: /key}}
- {name: e, request: {path: /bad}, expect: {status: 201, body: x}}
`)
	rep, err := Run(t.Context(), f, Options{BaseURL: url, Vars: map[string]string{"given": given}})
	if err != nil {
		t.Fatal(err)
	}
	if _, different, _ := rep.Count(); different != 5 {
		t.Errorf("%d steps differ, want 5", different)
	}
	var out bytes.Buffer
	_ = rep.Write(&out)
	for _, secret := range []string{given, made, header, "s3cr"} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("the report has %s:\n%s", secret, &out)
		}
	}
	if !strings.Contains(out.String(), "[…]") {
		t.Errorf("nothing was hidden:\n%s", &out)
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	asked := 0
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked++
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	})
	f := load(t, "steps: [{name: a, request: {path: /}, expect: {status: 302, headers: {Location: /elsewhere}}}]")
	for _, c := range []*http.Client{nil, {}} {
		if rep, err := Run(t.Context(), f, Options{BaseURL: url, Client: c}); err != nil || !rep.OK() {
			t.Error(err, rep)
		}
	}
	if asked != 2 {
		t.Errorf("%d requests, want 2", asked)
	}
}

func TestRunRefusesOptions(t *testing.T) {
	f := load(t, `{"vars": {"a": "", "b": "{env.B}"}, "steps": [{"name": "s", "request": {"path": "/{{a}}{{b}}"}, "expect": {"status": 200}}]}`)
	env := func(name string) (string, bool) { return map[string]string{"B": "b"}[name], true }
	for name, c := range map[string]struct {
		o    Options
		want string
	}{
		"no URL":           {Options{BaseURL: ""}, "base URL"},
		"a host alone":     {Options{BaseURL: "localhost:80"}, "base URL"},
		"a query":          {Options{BaseURL: "http://h/?a"}, "base URL"},
		"a user":           {Options{BaseURL: "http://u:p@h"}, "base URL"},
		"a file":           {Options{BaseURL: "file:///etc"}, "base URL"},
		"no value":         {Options{BaseURL: "http://h", Env: env}, "variable a has no value"},
		"no environment":   {Options{BaseURL: "http://h", Vars: map[string]string{"a": "1"}, Env: func(string) (string, bool) { return "", false }}, "variable b has no value"},
		"unknown variable": {Options{BaseURL: "http://h", Vars: map[string]string{"c": "1"}}, "the file has no variable c: it has a, b"},
	} {
		if _, err := Run(t.Context(), f, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/ab" {
			w.WriteHeader(http.StatusNotFound)
		}
	})
	if rep, err := Run(t.Context(), f, Options{BaseURL: url, Vars: map[string]string{"a": "a"}, Env: env}); err != nil || !rep.OK() {
		t.Error(err, rep)
	}
}

func TestRunEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	url := serve(t, func(http.ResponseWriter, *http.Request) { cancel() })
	rep, err := Run(ctx, load(t, "steps: [{name: a, attempts: 1000, request: {path: /}, expect: {status: 404}}, {name: b, request: {path: /}, expect: {status: 200}}]"), Options{BaseURL: url})
	if err != nil || len(rep.Steps) != 2 || rep.OK() {
		t.Fatal(err, rep)
	}
	if d := rep.Steps[1].Differences[0]; !strings.Contains(d.Got, context.Canceled.Error()) {
		t.Errorf("%+v", d)
	}
}

func TestLoadRefuses(t *testing.T) {
	const req = "\n  request: {path: /}\n  expect: {status: 200}\n"
	for name, c := range map[string]struct {
		text string
		line int
		want string
	}{
		"empty":               {"", 0, "the file is empty"},
		"no mapping":          {"- a", 1, "the file must be a mapping"},
		"no YAML":             {"a: [", 1, "did not find"},
		"unknown member":      {"name: x\nstep: []", 2, "the file has no member step: it has name, source, vars, secrets, steps"},
		"no steps":            {"name: x", 1, "the file needs steps"},
		"empty steps":         {"steps: []", 1, "the file needs steps"},
		"two documents":       {"steps: [{name: a, later: b}]\n---\na: b", 2, "more than one document"},
		"alias":               {"vars: {a: &x 1}\nsteps: []", 1, "anchors and aliases"},
		"twice":               {"vars:\n  a: 1\n  a: 2\nsteps: []", 3, "vars has a twice"},
		"variable of a word":  {"vars:\n  any: 1", 2, "any cannot name a variable"},
		"secret of nothing":   {"steps: [{name: a, later: b}]\nsecrets: [x]", 2, "there is no variable x"},
		"no name":             {"steps:\n- later: b", 2, "step 1 needs a name"},
		"empty later":         {"steps:\n- name: a\n  later: ''", 2, "later must say where"},
		"no request":          {"steps:\n- name: a\n  expect: {status: 200}", 2, "step 1 needs request and expect, or later"},
		"unknown in a step":   {"steps:\n- name: a\n  expct: 1", 3, "step 1 has no member expct"},
		"no path":             {"steps:\n- name: a\n  request: {}\n  expect: {status: 200}", 3, "request needs a path"},
		"relative path":       {"steps:\n- name: a\n  request: {path: x}\n  expect: {status: 200}", 3, "path must begin with /"},
		"method":              {"steps:\n- name: a\n  request: {path: /, method: get}\n  expect: {status: 200}", 3, `method "get"`},
		"two bodies":          {"steps:\n- name: a\n  request: {path: /, json: {}, body: x}\n  expect: {status: 200}", 3, "one of json, body and form"},
		"no status":           {"steps:\n- name: a\n  request: {path: /}\n  expect: {json: {}}", 4, "expect needs a status"},
		"status":              {"steps:\n- name: a\n  request: {path: /}\n  expect: {status: 99}", 4, "status must be a number from 100 to 599"},
		"no number of status": {"steps:\n- name: a\n  request: {path: /}\n  expect: {status: []}", 4, "status has no number"},
		"json and body":       {"steps:\n- name: a\n  request: {path: /}\n  expect: {status: 200, json: {}, body: x}", 4, "not both"},
		"unknown variable":    {"steps:\n- name: a\n  request: {path: '/{{x}}'}\n  expect: {status: 200}", 3, "{{x}} is neither under vars"},
		"saved after":         {"steps:\n- name: a\n  save: {x: /a}\n  request: {path: '/{{x}}'}\n  expect: {status: 200}", 4, "{{x}} is neither under vars"},
		"open braces":         {"steps:\n- name: a\n  request: {path: '/{{x'}\n  expect: {status: 200}", 3, "{{ without }}"},
		"word in a request":   {"steps:\n- name: a\n  request: {path: '/{{any}}'}\n  expect: {status: 200}", 3, "not for what is sent"},
		"unknown word":        {"steps:\n- name: a\n  request: {path: /}\n  expect: {status: 200, json: '{{some thing}}'}", 4, "neither a word of templates"},
		"misplaced word":      {"steps:\n- name: a\n  request: {path: /}\n  expect: {status: 200, json: '{{each}}'}", 4, "does not stand here"},
		"expression":          {"steps:\n- name: a\n  request: {path: /}\n  expect: {status: 200, json: '{{match (}}'}", 4, "missing closing"},
		"null in a header":    {"steps:\n- name: a\n  request: {path: /}\n  expect: {status: 200, headers: {A: '{{null}}'}}", 4, "is for JSON"},
		"header name":         {"steps:\n- name: a\n  request: {path: /, headers: {'a b': x}}\n  expect: {status: 200}", 3, "no name of a header"},
		"more is not true":    {"steps:\n- name: a\n  request: {path: /}\n  expect: {status: 200, json: {'{{more}}': false}}", 4, "must be true"},
		"each with members":   {"steps:\n- name: a\n  request: {path: /}\n  expect: {status: 200, json: {'{{each}}': 1, a: 2}}", 4, "for an array"},
		"no number of JSON":   {"steps:\n- name: a\n  request: {path: /}\n  expect: {status: 200, json: .nan}", 4, "no number of JSON"},
		"save":                {"steps:\n- name: a" + req + "  save: {x: 'a b'}", 5, "neither a JSON pointer"},
		"repeat":              {"steps:\n- name: a\n  repeat: 0" + req, 3, "repeat must be a whole number"},
		"repeat and attempts": {"steps:\n- name: a\n  repeat: 2\n  attempts: 2" + req, 4, "not both"},
		"deep":                {"steps:\n- name: a\n  request: {path: /}\n  expect: {status: 200, json: " + strings.Repeat("[", 100) + strings.Repeat("]", 100) + "}", 4, "within each other"},
		"long":                {strings.Repeat("#", maxFile+1), 0, "longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load(strings.NewReader(c.text))
			var e *FileError
			if !errors.As(err, &e) || e.Line != c.line || !strings.Contains(e.Message, c.want) {
				t.Errorf("%v, want line %d and %q", err, c.line, c.want)
			}
		})
	}
}

func TestJSONIsRead(t *testing.T) {
	f := load(t, "{\n\t\"name\": \"a\\/b \\\\/ \\u00e9 \\ud83d\\ude00\",\n\t\"steps\": [\n\t\t{\"name\": \"a\", \"later\": \"b\"}\n\t]\n}\n")
	if want := `a/b \/ é 😀`; f.Name != want {
		t.Errorf("name %q, want %q", f.Name, want)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add("steps: [{name: a, request: {path: /, json: {a: ['{{x}}', 1]}}, expect: {status: 200, json: {'{{each}}': '{{match a{2}}}'}}}]\nvars: {x: 1}")
	f.Add("steps: [{name: a, later: b, save: {x: /a, y: Location}}]\nsecrets: [x]")
	f.Fuzz(func(t *testing.T, text string) {
		file, err := Load(strings.NewReader(text))
		if err != nil {
			if e, ok := errors.AsType[*FileError](err); !ok || e.Message == "" {
				t.Fatalf("error %#v", err)
			}
			return
		}
		if len(file.steps) == 0 {
			t.Fatal("no steps")
		}
		for _, s := range file.steps {
			if (s.later == "") != (s.method.raw != "" && len(s.status) > 0) && s.later == "" {
				t.Fatalf("step %+v cannot be sent", s)
			}
		}
	})
}

// A comparison of a value with itself, as a template, has no difference, and
// neither has one with whatever is not JSON.
func FuzzDecodeJSON(f *testing.F) {
	for _, s := range []string{`{"a":[1,"x",null]}`, `[1e400]`, `{"a":1,"a":2}`, `"\ud800"`, `[[[`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		v, err := decodeJSON([]byte(text))
		if err != nil {
			return
		}
		c := &comparison{}
		if c.compare(asTemplate(v), "body", v); len(c.out) > 0 {
			t.Fatalf("%s differs from itself: %+v", text, c.out)
		}
	})
}

func asTemplate(v any) *template {
	switch v := v.(type) {
	case string:
		return &template{text: &text{raw: v, parts: []part{{text: v}}}}
	case map[string]any:
		t := &template{shape: object, object: map[string]*template{}}
		for name, e := range v {
			t.object[name] = asTemplate(e)
		}
		return t
	case []any:
		t := &template{shape: array}
		for _, e := range v {
			t.array = append(t.array, asTemplate(e))
		}
		return t
	}
	return &template{value: v}
}
