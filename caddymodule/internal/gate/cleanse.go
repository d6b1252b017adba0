package gate

import (
	"encoding/base64"
	"io"
	"net/http"
	"strings"

	"github.com/keytoll/keytoll/caddymodule/token"
)

// Cleaner takes out of a request what must not reach the upstream. It is
// immutable and safe for concurrent use.
type Cleaner struct {
	sources   []Source
	keys      token.Set
	keep      bool
	protected names
	headers   names // of the sources that are headers
	upgrades  []string
}

// names is a set of header names without regard to their spelling.
type names struct {
	folded  []string
	lengths uint64 // a bit for each length there is, modulo 64
}

func (n *names) add(name string) {
	n.folded = append(n.folded, fold(name))
	n.lengths |= 1 << (len(name) & 63)
}

// has spares most names the search.
func (n *names) has(name string) bool {
	return n.lengths&(1<<(len(name)&63)) != 0 && n.holds(name)
}

func (n *names) holds(name string) bool {
	for _, f := range n.folded {
		if len(f) == len(name) && foldEqual(name, f) {
			return true
		}
	}
	return false
}

// NewCleaner makes a Cleaner. protected are the headers that only the gate may
// set; upgrades the protocols that may be switched to; keep leaves credentials
// where they are.
func NewCleaner(sources []Source, keys token.Set, protected, upgrades []string, keep bool) *Cleaner {
	c := &Cleaner{sources: sources, keys: keys, keep: keep, upgrades: upgrades}
	for _, p := range protected {
		c.protected.add(p)
	}
	for _, s := range sources {
		if s.Kind == Header {
			c.headers.add(s.Name)
		}
	}
	return c
}

// Cleanse removes credentials, client copies of protected headers in every
// spelling, connection options that would have a header removed further on,
// and upgrades that are not permitted. If the request announces trailers, its
// body is replaced by one that removes the protected ones when they arrive. It
// reports whether there was a header about the connection; it may be gone.
func (c *Cleaner) Cleanse(r *http.Request) (connection bool) {
	for name, values := range r.Header {
		switch {
		case name == "Authorization":
			if !c.keep {
				c.cleanAuthorization(r.Header, values)
			}
		case c.protected.has(name) || !c.keep && c.spent(name, values):
			delete(r.Header, name)
		case name == "Connection" || name == "Upgrade" || name == "Http2-Settings":
			connection = true
		}
	}
	if !c.keep && r.URL.RawQuery != "" {
		r.URL.RawQuery = c.CleanQuery(r.URL.RawQuery)
	}
	if connection {
		c.cleanConnection(r.Header)
	}
	if r.Trailer != nil {
		c.cleanTrailer(r.Trailer)
		r.Body = &trailerBody{ReadCloser: r.Body, trailer: r.Trailer, cleaner: c}
	}
	return connection
}

// trailerBody is a request body that removes protected trailers at its end.
type trailerBody struct {
	io.ReadCloser
	trailer http.Header
	cleaner *Cleaner
}

// Read reads from the body below.
func (b *trailerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.cleaner.cleanTrailer(b.trailer)
	}
	return n, err
}

func (c *Cleaner) cleanTrailer(t http.Header) {
	for name, values := range t {
		if c.protected.has(name) || !c.keep && (name == "Authorization" || c.spent(name, values)) {
			delete(t, name)
		}
	}
}

// spent reports whether a header is a source, or holds a key of ours wherever
// it was put.
func (c *Cleaner) spent(name string, values []string) bool {
	if c.headers.has(name) {
		return true
	}
	for _, v := range values {
		if _, _, ok := c.keys.Find(v); ok {
			return true
		}
		if name == "Referer" && c.queryKeyIn(v) {
			return true
		}
		if name == "Proxy-Authorization" && c.hidden(v) {
			return true
		}
	}
	return false
}

func (c *Cleaner) cleanAuthorization(h http.Header, values []string) {
	kept := values[:0]
	for _, v := range values {
		if !c.spendsAuthorization(v) {
			kept = append(kept, v)
		}
	}
	if len(kept) == 0 {
		delete(h, "Authorization")
	} else {
		h["Authorization"] = kept
	}
}

func (c *Cleaner) spendsAuthorization(v string) bool {
	for _, s := range c.sources {
		switch s.Kind {
		case Bearer:
			if hasScheme(v, "Bearer") {
				return true
			}
		case Basic:
			if hasScheme(v, "Basic") {
				return true
			}
		}
	}
	_, _, ok := c.keys.Find(v)
	return ok || c.hidden(v)
}

// hidden reports whether a Basic value holds a key of ours.
func (c *Cleaner) hidden(v string) bool {
	enc, ok := cutScheme(v, "Basic")
	if !ok {
		return false
	}
	raw, err := base64.StdEncoding.DecodeString(enc)
	if err != nil {
		return false
	}
	_, _, ok = c.keys.Find(string(raw))
	return ok
}

func (c *Cleaner) queryKeyIn(uri string) bool {
	_, query, ok := strings.Cut(uri, "?")
	return ok && c.CleanQuery(query) != query
}

// CleanQuery cuts out the parameters that are sources or hold a key of ours.
// The bytes of the others stay as they are.
func (c *Cleaner) CleanQuery(raw string) string {
	if !c.querySuspect(raw) {
		return raw
	}
	kept := make([]string, 0, 8)
	for pair := range strings.SplitSeq(raw, "&") {
		if !c.spendsPair(pair) {
			kept = append(kept, pair)
		}
	}
	return strings.Join(kept, "&")
}

// querySuspect spares most queries the split.
func (c *Cleaner) querySuspect(raw string) bool {
	for _, s := range c.sources {
		if s.Kind == Query {
			return true
		}
	}
	if strings.Contains(raw, "%") {
		return true
	}
	_, _, ok := c.keys.Find(raw)
	return ok
}

func (c *Cleaner) spendsPair(pair string) bool {
	// Some servers split at ';' as well, so a key behind one is one too.
	for part := range strings.SplitSeq(pair, ";") {
		k, v, _ := strings.Cut(part, "=")
		name := unescape(k)
		for _, s := range c.sources {
			if s.Kind == Query && s.Name == name {
				return true
			}
		}
		for _, text := range [...]string{part, name, unescape(v)} {
			if _, _, ok := c.keys.Find(text); ok {
				return true
			}
		}
	}
	return false
}

// cleanConnection keeps close, keep-alive and a permitted upgrade. Any other
// option would make the proxy remove the header of that name, ours included.
func (c *Cleaner) cleanConnection(h http.Header) {
	upgrade := c.upgradeAllowed(h["Upgrade"])
	if !upgrade {
		delete(h, "Upgrade")
		delete(h, "Http2-Settings")
	}
	values, ok := h["Connection"]
	if !ok {
		return
	}
	var kept []string
	changed := len(values) > 1
	for _, v := range values {
		for option := range strings.SplitSeq(v, ",") {
			option = trimBlanks(option)
			if strings.EqualFold(option, "close") || strings.EqualFold(option, "keep-alive") ||
				upgrade && strings.EqualFold(option, "upgrade") {
				kept = append(kept, option)
			} else {
				changed = true
			}
		}
	}
	switch {
	case len(kept) == 0:
		delete(h, "Connection")
	case changed:
		h["Connection"] = []string{strings.Join(kept, ", ")}
	}
}

func (c *Cleaner) upgradeAllowed(values []string) bool {
	if len(values) != 1 {
		return false
	}
	for _, u := range c.upgrades {
		if strings.EqualFold(values[0], u) {
			return true
		}
	}
	return false
}

// fold lowers a header name and makes '_' and '.' the '-' that some upstreams
// take them for.
func fold(s string) string {
	b := []byte(s)
	for i, c := range b {
		b[i] = foldByte(c)
	}
	return string(b)
}

func foldByte(c byte) byte {
	switch {
	case 'A' <= c && c <= 'Z':
		return c + 'a' - 'A'
	case c == '_' || c == '.':
		return '-'
	}
	return c
}

// foldEqual compares a name with a folded one of the same length.
func foldEqual(name, folded string) bool {
	for i := range len(name) {
		if foldByte(name[i]) != folded[i] {
			return false
		}
	}
	return true
}
