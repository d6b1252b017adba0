package caddymodule

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/internal/dialect"
)

func TestDialectNamesTheDefault(t *testing.T) {
	name, dl, err := dialectParse("dialect audiopod", nil)
	if name != "audiopod" || dl != nil || err != nil {
		t.Errorf("%s, %v, %v", name, dl, err)
	}
	name, dl, err = dialectParse("dialect mine {\n}", nil)
	if name != "mine" || !reflect.DeepEqual(dl, new(dialect.Dialect)) || err != nil {
		t.Errorf("%s, %v, %v", name, dl, err)
	}
}

func TestDialectBlock(t *testing.T) {
	_, dl, err := dialectParse(`dialect mine {
	errors problem
	codes upper
	fields camel
	time unix
	foreign 403
	unknown ignore
	realm "My API"
	reset seconds
	rate_headers both
	name key secret
	error expired revoked {
		status 403
		code Gone
		message "It is gone"
		detail until {expired_at}
	}
	create {
		status 200
		wrap data
		members id key
		member note "Keep it"
		member success json true
		input name expires_in_days
		required name
	}
	list {
		array
		members id
		filter none
	}
	update {
		empty
		input none
	}
	rotate {
		flat
		grace 24h
	}
	revoke {
		members id
	}
}`, nil)
	if err != nil {
		t.Fatal(err)
	}
	gone := &dialect.Answer{Status: 403, Code: "Gone", Message: "It is gone", Details: map[string]string{"until": "{expired_at}"}}
	want := &dialect.Dialect{
		Errors: "problem", Codes: "upper", Fields: "camel", Time: "unix", Foreign: 403, Unknown: "ignore", Realm: "My API",
		Reset: "seconds", RateHeaders: "both", Names: map[string]string{"key": "secret"},
		Reasons: map[string]*dialect.Answer{"expired": gone, "revoked": gone},
		Create: &dialect.Shape{Status: 200, Wrap: "data", Members: []string{"id", "key"}, Extra: []dialect.Member{
			{Name: "note", Value: "Keep it"}, {Name: "success", Value: "true", JSON: true}},
			Inputs: []string{"name", "expires_in_days"}, Required: []string{"name"}},
		List:   &dialect.Shape{Array: true, Members: []string{"id"}, Filters: []string{}},
		Update: &dialect.Shape{Empty: true, Inputs: []string{}},
		Rotate: &dialect.Shape{Grace: "24h"},
		Revoke: &dialect.Shape{Members: []string{"id"}},
	}
	if !reflect.DeepEqual(dl, want) {
		t.Errorf("got  %+v\nwant %+v", dl, want)
	}
}

func TestDialectChangesPreset(t *testing.T) {
	_, dl, err := dialectParse(`dialect audiopod audiopod {
	error expired {
		code expired
	}
	create {
		wrap key
		member note "Keep it"
	}
	revoke {
		empty
		status 204
	}
	list {
		wrap items
	}
}`, nil)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := presetDialect("audiopod")
	want.Reasons["expired"].Code = "expired"
	want.Create.Wrap, want.Create.Extra = "key", []dialect.Member{{Name: "note", Value: "Keep it"}}
	want.Revoke = &dialect.Shape{Status: 204, Empty: true}
	want.List.Array, want.List.Wrap = false, "items"
	if !reflect.DeepEqual(dl, want) {
		t.Errorf("got  %+v\nwant %+v", dl, want)
	}
	known := map[string]*dialect.Dialect{"mine": dl}
	if _, next, err := dialectParse("dialect next mine {\ncreate {\nmember -note\nflat\n}\n}", known); err != nil ||
		next.Create.Wrap != "" || len(next.Create.Extra) != 0 || dl.Create.Wrap != "key" || len(dl.Create.Extra) != 1 {
		t.Errorf("%+v, %v", next, err)
	}
}

// TestDialectNamesTheLine: in each block the last line but the closing braces is
// wrong.
func TestDialectNamesTheLine(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"errors html", "want one of standard"},
		{"eror x", "did you mean error?"},
		{"errors", "exactly one argument"},
		{"codes lower\ncodes upper", "codes is given twice"},
		{"foreign nope", "not a whole number"},
		{"foreign 410", "want 403 or 404"},
		{"name id", "needs a field"},
		{"name nome x", "there is no field nome"},
		{"name id x\nname id y", "name id is given twice"},
		{"name id name", "both named name"},
		{"error", "one or more reasons"},
		{"error expird {\n", "there is no reason expird"},
		{"error expired {\ncode x\ncode y\n", "code is given twice"},
		{"error expired {\ncoed x\n", "did you mean code?"},
		{"error expired {\nstatus 200\n", "400 to 599"},
		{"error expired {\nstatus 401\ndetail a\n", "needs a member"},
		{"error expired {\ndetail a {secret}\n", "there is no {secret}"},
		{"error expired {\ndetail a b\ndetail a c\n", "detail a is given twice"},
		{"create now", "takes a block"},
		{"create {\nmember a\n", "needs a name and a text"},
		{"create {\nmember a b c\n", "needs a name and a text"},
		{"create {\nmember a json yes\n", "is not JSON"},
		{"create {\nmember -a\n", "no member a to drop"},
		{"create {\nmember a b\nmember a c\n", "member a is given twice"},
		{"create {\nmembers\n", "one or more fields"},
		{"create {\ninput\n", "or none"},
		{"create {\ninput name nome\n", "there is no nome here"},
		{"create {\ninput name\nrequired permissions\n", "add it to input"},
		{"create {\narray\n", "want one of: status, wrap"},
		{"create {\nwrap a\nflat\n", "do not go together"},
		{"create {\nstatus 404\n", "200 to 299"},
		{"create {\nflat on\n", "no argument"},
		{"get {\nmembers id key\n", "there is no key here"},
		{"get {\nmembers id\nmembers name\n", "members is given twice"},
		{"list {\narray\nwrap x\n", "do not go together"},
		{"list {\nfilter color\n", "there is no color here"},
		{"revoke {\nempty\nmembers id\n", "do not go together"},
		{"rotate {\ngrace soon\n", `grace "soon"`},
	} {
		text := "dialect mine {\n" + c.text + "\n"
		line := strings.Count(strings.TrimRight(text, "\n"), "\n") + 1
		_, _, err := dialectParse(text+strings.Repeat("}\n", strings.Count(text, "{\n")), nil)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: error %v, want %q", c.text, err, c.want)
			continue
		}
		if at := fmt.Sprintf("at Caddyfile:%d", line); !strings.HasSuffix(err.Error(), at) {
			t.Errorf("%q: error %v, want %q", c.text, err, at)
		}
	}
	for _, c := range []struct{ text, want string }{
		{"dialect", "needs a name"},
		{"dialect a b c", "needs a name"},
		{"dialect a/b {\n}", "dialect name"},
		{"dialect a nope {\n}", "there is no dialect nope: want a preset (audiopod, example, "},
		{"dialect old {\n}", "defined twice"},
		{"dialect audiopod {\n}", "write `dialect audiopod audiopod { … }`"},
	} {
		_, _, err := dialectParse(c.text, map[string]*dialect.Dialect{"old": new(dialect.Dialect)})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasSuffix(err.Error(), "at Caddyfile:1") {
			t.Errorf("%q: error %v, want %q", c.text, err, c.want)
		}
	}
}
