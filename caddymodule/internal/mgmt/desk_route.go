package mgmt

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/dialect"
)

// The actions of each path, by method.
var (
	onAll    = map[string]string{http.MethodGet: dialect.List, http.MethodPost: dialect.Create}
	onOne    = map[string]string{http.MethodGet: dialect.Get, http.MethodPatch: dialect.Update, http.MethodDelete: dialect.Revoke}
	onRotate = map[string]string{http.MethodPost: dialect.Rotate}
	onMe     = map[string]string{http.MethodGet: dialect.Me}
)

// find returns what can be done at a path, and the text by which it names a key
// or a provider; empty for none. A path that names none of ours is a path all
// the same: no answer may tell whether an id has the right form.
func (d *Desk) find(u *url.URL) (actions map[string]string, name string, ok bool) {
	rest, ok := strings.CutPrefix(u.Path, d.o.Base)
	if !ok || strings.Contains(strings.ToLower(u.RawPath), "%2f") {
		return nil, "", false
	}
	switch d.o.Kind {
	case DeskMe:
		return onMe, "", rest == "" || rest == "/"
	case DeskUsage:
		actions, ok = findUsage(rest)
		return actions, "", ok
	case DeskProviderKeys:
		return findBelow(rest, ActionVerify, onProviders, onProvider, onVerify)
	}
	return findBelow(rest, dialect.Rotate, onAll, onOne, onRotate)
}

// findBelow returns what can be done with all, with one, and with one at the
// path that a word adds.
func findBelow(rest, word string, all, one, deep map[string]string) (actions map[string]string, name string, ok bool) {
	if rest == "" || rest == "/" {
		return all, "", true
	}
	text, ok := strings.CutPrefix(rest, "/")
	if !ok {
		return nil, "", false
	}
	actions = one
	if head, tail, deeper := strings.Cut(text, "/"); deeper {
		if tail != word {
			return nil, "", false
		}
		text, actions = head, deep
	}
	return actions, text, text != ""
}

func allowed(actions map[string]string) string {
	var list []string
	for m := range actions {
		list = append(list, m)
	}
	if _, ok := actions[http.MethodGet]; ok {
		list = append(list, http.MethodHead)
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// query reads the parameters that a request may have, and refuses others: a
// filter with a slip in its name must not list everything.
func (v *visit) query(names ...string) (map[string]string, error) {
	values, err := url.ParseQuery(v.r.URL.RawQuery)
	if err != nil {
		return nil, badRequest("", "the query is not well formed")
	}
	q := map[string]string{}
	for n, value := range values {
		switch {
		case slices.Contains(v.o.Params, n):
		case !slices.Contains(names, n):
			return nil, badRequest(clip(n), "there is no parameter %q here", clip(n))
		case len(value) != 1 || value[0] == "":
			return nil, badRequest(n, "the parameter %s wants one value", n)
		default:
			q[n] = value[0]
		}
	}
	return q, nil
}

// pageLimit reads how many records a page holds; empty is 0.
func pageLimit(s string, most int) (int, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > most {
		return 0, badRequest("limit", "limit %q: want 1 to %d", clip(s), most)
	}
	return n, nil
}

// link names the next page. Only what the list was asked for stands in it,
// never another parameter, which may hold the key.
func (v *visit) link(q map[string]string, next access.KeyID) {
	if next == (access.KeyID{}) {
		return
	}
	out := url.Values{"cursor": {next.String()}}
	for n, s := range q {
		if n != "cursor" {
			out.Set(n, s)
		}
	}
	v.w.Header().Set("Link", "<"+v.r.URL.EscapedPath()+"?"+out.Encode()+`>; rel="next"`)
}
