package openapi

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// describe makes a description of paths in YAML flow form.
func describe(paths string) []byte {
	return []byte("openapi: 3.0.3\ninfo: {title: t, version: '1'}\npaths:\n" + paths)
}

const shop = `
  /users: {get: {operationId: listUsers}, post: {operationId: createUser}}
  /users/me: {get: {operationId: whoAmI}}
  /users/{id}: {get: {operationId: getUser}, delete: {operationId: deleteUser}, head: {operationId: probeUser}}
  /users/{id}/: {get: {operationId: userFolder}}
  /users/{user}/keys/{key}: {put: {operationId: putKey}}
  /users/me/keys/special: {put: {operationId: putSpecial}}
  /reports/{name}.json: {get: {operationId: reportJSON}}
  /reports/{name}.min.json: {get: {operationId: reportMin}}
  /reports/{from}..{to}: {get: {operationId: reportRange}}
  /reports/{name}: {get: {x-permission: [reports, reports:raw]}}
  /jobs/{id}:cancel: {post: {x-permission: jobs:cancel, operationId: cancelJob}}
  /open: {get: {x-permission: []}}
  /Straße: {get: {operationId: street}}
`

func TestMatch(t *testing.T) {
	d, err := Load(describe(shop), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ method, path, want string }{
		{"GET", "/users", "listUsers"},
		{"HEAD", "/users", "listUsers"},
		{"GET", "/USERS", "listUsers"},
		{"POST", "/users", "createUser"},
		{"PUT", "/users", "-"},
		{"get", "/users", "-"},
		{"OPTIONS", "/users", "-"},
		{"GET", "/users/", "-"},
		{"GET", "/users/me", "whoAmI"},
		{"GET", "/uSers/ME", "whoAmI"},
		{"DELETE", "/users/me", "-"}, // the literal template has no such method
		{"GET", "/users/42", "getUser"},
		{"HEAD", "/users/42", "probeUser"},
		{"DELETE", "/users/42", "deleteUser"},
		{"GET", "/users/42/", "userFolder"},
		{"GET", "/users//", "-"},
		{"PUT", "/users/a/keys/b", "putKey"},
		{"PUT", "/users/me/keys/b", "putKey"}, // back from the literal
		{"PUT", "/users/me/keys/special", "putSpecial"},
		{"PUT", "/users/a/keys/", "-"},
		{"PUT", "/users/a/keys/b/c", "-"},
		{"GET", "/reports/a.json", "reportJSON"},
		{"GET", "/reports/A.JSON", "reportJSON"},
		{"GET", "/reports/a.min.json", "reportMin"},
		{"GET", "/reports/.json", "reports reports:raw"}, // a parameter is not empty
		{"GET", "/reports/1..2", "reportRange"},
		{"GET", "/reports/..2", "reports reports:raw"},
		{"GET", "/reports/x", "reports reports:raw"},
		{"GET", "/reports/", "-"},
		{"POST", "/jobs/7:cancel", "jobs:cancel"},
		{"POST", "/jobs/:cancel", "-"},
		{"POST", "/jobs/7", "-"},
		{"GET", "/open", ""},
		{"GET", "/straße", "street"},
		{"GET", "/STRAßE", "street"},
		{"GET", "", "-"},
		{"GET", "users", "-"},
		{"GET", "*", "-"},
		{"GET", "/", "-"},
		{"GET", "//users", "-"},
		{"GET", "/users/" + strings.Repeat("A", 5000), "getUser"},
	} {
		if got := match(d, c.method, c.path); got != c.want {
			t.Errorf("%s %s: %q, want %q", c.method, c.path, got, c.want)
		}
	}
}

func match(d *Document, method, path string) string {
	needs, ok := d.Match(method, path)
	if !ok {
		return "-"
	}
	return strings.Join(needs, " ")
}

func TestServers(t *testing.T) {
	const ops = "  /a: {get: {operationId: a}}\n  /b: {servers: [{url: /other}], get: {operationId: b}, put: {operationId: c, servers: [{url: 'https://x/third/'}]}}\n"
	for _, c := range []struct {
		name, servers, base string
		good, bad           string // paths of a
	}{
		{"none", "", "", "/a", "/v1/a"},
		{"path", "servers: [{url: 'https://api.example.com/v1'}]\n", "", "/v1/a", "/a"},
		{"slash", "servers: [{url: 'https://api.example.com/'}]\n", "", "/a", "/v1/a"},
		{"no path", "servers: [{url: 'https://api.example.com'}]\n", "", "/a", "/v1/a"},
		{"relative", "servers: [{url: /v1}]\n", "", "/v1/a", "/a"},
		{"two", "servers: [{url: 'https://a/v1'}, {url: 'https://b/v2'}]\n", "", "/v1/a /v2/a", "/a"},
		{"two of one path", "servers: [{url: 'https://a/v1'}, {url: 'https://b/v1/'}]\n", "", "/v1/a", "/a"},
		{"host variable", "servers: [{url: 'https://{region}.example.com/v1', variables: {region: {default: eu, enum: [eu, us]}}}]\n", "", "/v1/a", "/a"},
		{"path variable", "servers: [{url: 'https://x/{v}', variables: {v: {default: v2, enum: [v1, v2]}}}]\n", "", "/v1/a /v2/a", "/v3/a"},
		{"case", "servers: [{url: /V1}]\n", "", "/v1/a /V1/A", "/a"},
		{"base", "servers: [{url: /v1}]\n", "/api/v9", "/api/v9/a", "/v1/a"},
		{"base slash", "servers: [{url: /v1}]\n", "/", "/a", "/v1/a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := Load(append([]byte(c.servers), describe(ops)...), c.base)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range strings.Fields(c.good) {
				if match(d, "GET", p) != "a" {
					t.Errorf("%s is not there: %v", p, d.Operations())
				}
			}
			if match(d, "GET", c.bad) != "-" {
				t.Errorf("%s is there", c.bad)
			}
			if c.base == "" && (match(d, "GET", "/other/b") != "b" || match(d, "PUT", "/third/b") != "c") {
				t.Errorf("servers of a path and an operation do not count: %v", d.Operations())
			}
		})
	}
}

func TestScopes(t *testing.T) {
	for _, c := range []struct{ security, op, want string }{
		{"security: [{o: [read]}]\n", "{}", "read"},
		{"security: [{o: [read]}]\n", "{security: [{o: [write]}]}", "write"},
		{"", "{security: [{o: [read]}, {p: [admin]}]}", "read admin"},
		{"", "{security: [{o: [read], k: []}]}", "read"},
		{"security: [{o: [read]}]\n", "{security: []}", ""},
		{"", "{operationId: id, security: [{o: [read]}]}", "id"},
		{"", "{operationId: id, x-permission: own, security: [{o: [read]}]}", "own"},
		{"", "{operationId: id, x-permission: [a, b, a]}", "a b"},
	} {
		d, err := Load(append([]byte(c.security), describe("  /a: {get: "+c.op+"}\n")...), "")
		if err != nil {
			t.Errorf("%s: %v", c.op, err)
			continue
		}
		if got := match(d, "GET", "/a"); got != c.want {
			t.Errorf("%s %s: %q, want %q", c.security, c.op, got, c.want)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	many := strings.TrimSuffix(strings.Repeat("x,", 65), ",")
	for i := range 65 {
		many = strings.Replace(many, "x", fmt.Sprint("v", i), 1)
	}
	for _, c := range []struct{ name, file, base, want string }{
		{"empty", " \n", "", "the description is empty"},
		{"no yaml", "\t: [", "", "not an OpenAPI description"},
		{"a list", "[]", "", "not an OpenAPI description"},
		{"swagger", `{"swagger":"2.0","paths":{"/a":{"get":{"operationId":"a"}}}}`, "", "OpenAPI 3"},
		{"no paths", "openapi: 3.0.3\npaths: {}\n", "", "no paths"},
		{"no operations", string(describe("  /a: {}\n")), "", "no operations"},
		{"no name", string(describe("  /a: {get: {}}\n")), "", "GET /a: nothing says which permission"},
		{"no scope", string(describe("  /a: {get: {security: [{k: []}]}}\n")), "", "GET /a: nothing says"},
		{"one without scope", string(describe("  /a: {get: {security: [{o: [a]}, {k: []}]}}\n")), "", "GET /a: nothing says"},
		{"two scopes", string(describe("  /a: {get: {security: [{o: [b, a]}]}}\n")), "", "GET /a: it needs the scopes a, b at once"},
		{"name", string(describe("  /a: {get: {operationId: 'list users'}}\n")), "", "GET /a: permission \"list users\""},
		{"wildcard", string(describe("  /a: {get: {x-permission: 'a:*'}}\n")), "", "GET /a: permission a:*: an operation needs one permission"},
		{"extension number", string(describe("  /a: {get: {x-permission: 7}}\n")), "", "GET /a: x-permission"},
		{"extension list", string(describe("  /a: {get: {x-permission: [7]}}\n")), "", "GET /a: x-permission"},
		{"extension empty", string(describe("  /a: {get: {x-permission: ''}}\n")), "", "GET /a: permission"},
		{"id twice", string(describe("  /a: {get: {operationId: x}}\n  /b: {put: {operationId: x}}\n")), "", "PUT /b: operationId x is that of GET /a"},
		{"same template", string(describe("  /a/{x}: {get: {operationId: x}}\n  /a/{y}: {put: {operationId: y}}\n")), "", "PUT /a/{y}: the same requests as of /a/{x}"},
		{"same but for case", string(describe("  /A: {get: {operationId: x}}\n  /a: {put: {operationId: y}}\n")), "", "PUT /a: the same requests as of /A"},
		{"twice in yaml", string(describe("  /a: {get: {operationId: x}}\n  /a: {get: {operationId: y}}\n")), "", "/a"},
		{"twice in json", `{"openapi":"3.0.3","paths":{"/a":{"get":{"operationId":"x"}},"/a":{"get":{"operationId":"y"}}}}`, "", `"/a" is given twice`},
		{"empty segment", string(describe("  /a//b: {get: {operationId: x}}\n")), "", "GET /a//b: the path has an empty segment"},
		{"dots", string(describe("  /a/../b: {get: {operationId: x}}\n")), "", "normal form"},
		{"encoded", string(describe("  /a%2fb: {get: {operationId: x}}\n")), "", "normal form"},
		{"query", string(describe("  '/a?b': {get: {operationId: x}}\n")), "", "no query"},
		{"no slash", string(describe("  a: {get: {operationId: x}}\n")), "", "starts with a slash"},
		{"brace", string(describe("  '/a/{b': {get: {operationId: x}}\n")), "", "brace"},
		{"closing brace", string(describe("  '/a/b}': {get: {operationId: x}}\n")), "", "brace"},
		{"nested braces", string(describe("  '/a/{{b}}': {get: {operationId: x}}\n")), "", "brace"},
		{"no parameter name", string(describe("  '/a/{}': {get: {operationId: x}}\n")), "", "no name"},
		{"side by side", string(describe("  '/a/{b}{c}': {get: {operationId: x}}\n")), "", "side by side"},
		{"external path", string(describe("  /a: {$ref: './other.yaml'}\n")), "", "other.yaml"},
		{"external schema", string(describe("  /a: {get: {operationId: x, responses: {'200': {$ref: 'http://127.0.0.1:1/x.yaml#/y'}}}}\n")), "", "127.0.0.1"},
		{"base", string(describe(shop)), "v1", "want a path such as /v1"},
		{"base dots", string(describe(shop)), "/v1/../x", "want a path such as /v1"},
		{"server relative", "servers: [{url: v1}]\n" + string(describe(shop)), "", "server v1: its path cannot be told"},
		{"server variable", "servers: [{url: '/{v}'}]\n" + string(describe(shop)), "", "the variable v is not defined"},
		{"server variable values", "servers: [{url: '/{v}', variables: {v: {default: v0, enum: [" + many + "]}}}]\n" + string(describe(shop)), "", "too many values"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Load([]byte(c.file), c.base)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

// TestLocalReference is about a path item that stands elsewhere in the file.
func TestLocalReference(t *testing.T) {
	d, err := Load([]byte(`openapi: 3.1.0
info: {title: t, version: '1'}
paths:
  /a: {$ref: '#/components/pathItems/a'}
components:
  pathItems:
    a: {get: {operationId: x}}
`), "")
	if err != nil {
		t.Skipf("the library does not follow it: %v", err)
	}
	if match(d, "GET", "/a") != "x" {
		t.Errorf("operations %v", d.Operations())
	}
}

func TestMatchDoesNotAllocate(t *testing.T) {
	d, err := Load(describe(shop), "/v1")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/v1/users/Me/keys/Special", "/v1/reports/a.min.json", "/v1/users/42", "/nothing"} {
		if n := testing.AllocsPerRun(100, func() { d.Match("PUT", path) }); n != 0 {
			t.Errorf("%s: %v allocations", path, n)
		}
	}
}

// FuzzMatch compares the tree with a plain reading of the templates.
func FuzzMatch(f *testing.F) {
	d, err := Load(describe(shop), "")
	if err != nil {
		f.Fatal(err)
	}
	f.Add("GET", "/users/me/keys/special")
	f.Add("GET", "/reports/a..b.json")
	f.Add("POST", "/jobs/:cancel:cancel")
	f.Add("GET", "/a\x00/%2f/..")
	f.Fuzz(func(t *testing.T, method, path string) {
		needs, ok := d.Match(method, path)
		var about []Operation
		for _, o := range d.Operations() {
			if plainMatch(o.Path, path) {
				about = append(about, o)
			}
		}
		if !ok {
			if len(about) == 1 && about[0].Method == method {
				t.Errorf("%s %q is %s", method, path, about[0])
			}
			return
		}
		found := slices.ContainsFunc(about, func(o Operation) bool {
			return slices.Equal(o.Needs, needs) && (o.Method == method || method == "HEAD" && o.Method == "GET")
		})
		if !found {
			t.Errorf("%s %q needs %v, but is %v", method, path, needs, about)
		}
	})
}

// plainMatch matches segment by segment, trying all.
func plainMatch(template, path string) bool {
	ts, ps := strings.Split(strings.ToLower(template), "/"), strings.Split(strings.ToLower(path), "/")
	if len(ts) != len(ps) {
		return false
	}
	for i := range ts {
		if !plainSegment(ts[i], ps[i]) {
			return false
		}
	}
	return true
}

func plainSegment(template, s string) bool {
	literal, rest, ok := strings.Cut(template, "{")
	if !strings.HasPrefix(s, literal) {
		return false
	}
	s = s[len(literal):]
	if !ok {
		return s == ""
	}
	_, rest, _ = strings.Cut(rest, "}")
	for i := 1; i <= len(s); i++ {
		if plainSegment(rest, s[i:]) {
			return true
		}
	}
	return false
}

// FuzzLoad: no text makes Load panic, and what it takes can be matched.
func FuzzLoad(f *testing.F) {
	f.Add(string(describe(shop)), "")
	f.Add(`{"openapi":"3.1.0","paths":{"/a":{"get":{"operationId":"a","security":[]}}}}`, "/v1")
	f.Add("openapi: 3.0.0\npaths: {/a: {$ref: '#/paths/~1a'}}\n", "")
	f.Add("openapi: 3.0.0\nservers: [null]\npaths: {/a: null, x-y: 1}\n", "/")
	f.Fuzz(func(t *testing.T, file, base string) {
		d, err := Load([]byte(file), base)
		if err != nil {
			return
		}
		for _, o := range d.Operations() {
			if strings.ContainsAny(o.Path, "{}") {
				continue
			}
			if needs, ok := d.Match(o.Method, o.Path); !ok || !slices.Equal(needs, o.Needs) {
				t.Errorf("%s: %v, want %v", o, needs, o.Needs)
			}
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	var paths strings.Builder
	for i := range 200 {
		fmt.Fprintf(&paths, "  /v1/things%d: {get: {operationId: list%[1]d}}\n  /v1/things%[1]d/{id}/parts/{part}: {get: {operationId: get%[1]d}}\n", i)
	}
	d, err := Load(describe(paths.String()), "")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := d.Match("GET", "/v1/things100/abcDEF0123/parts/7"); !ok {
			b.Fatal("no match")
		}
	}
}
