package mgmt

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

// maxSeconds is the longest time from now that a request can name: 290 years,
// near the end of time.Duration.
const maxSeconds = 290 * 366 * 24 * 3600

const idempotencyHeader = "Idempotency-Key"

// idempotency reads the header Idempotency-Key; nil if there is none. The
// request that it stands for is the method, the path and the body.
func idempotency(r *http.Request, scope string, body []byte) (*registrar.Idempotency, error) {
	values := r.Header.Values(idempotencyHeader)
	if len(values) == 0 {
		return nil, nil
	}
	key := values[0]
	ok := len(values) == 1 && key != "" && len(key) <= 255
	for i := range len(key) {
		ok = ok && key[i] > ' ' && key[i] < 0x7f
	}
	if !ok {
		return nil, badRequest(idempotencyHeader, "%s: want 1 to 255 visible ASCII characters, once", idempotencyHeader)
	}
	h := sha256.New()
	for _, part := range []string{r.Method, r.URL.Path, string(body)} {
		h.Write(strconv.AppendInt(nil, int64(len(part)), 10))
		h.Write([]byte{0})
		h.Write([]byte(part))
	}
	return &registrar.Idempotency{Key: key, Scope: scope, Body: [32]byte(h.Sum(nil))}, nil
}

// parseAddresses reads networks; a single address is a network of one.
func parseAddresses(list []string) ([]netip.Prefix, error) {
	if len(list) > access.MaxAddresses {
		return nil, badRequest("addresses", "addresses: at most %d are allowed", access.MaxAddresses)
	}
	var out []netip.Prefix
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if a, bad := netip.ParseAddr(s); bad == nil && a.Zone() == "" {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			return nil, badRequest("addresses", "addresses: %q is no address or network: want such as 192.0.2.7 or 2001:db8::/32", clip(s))
		}
		out = append(out, p)
	}
	return out, nil
}

// seconds reads a time from now; nil is 0.
func seconds(field string, n *int64) (time.Duration, error) {
	if n == nil {
		return 0, nil
	}
	if *n < 1 || *n > maxSeconds {
		return 0, badRequest(field, "%s: want seconds from 1 to %d", field, int64(maxSeconds))
	}
	return time.Duration(*n) * time.Second, nil
}

// parseGrace reads a time such as 24h, 7d or 0, in whole seconds.
func parseGrace(s string) (time.Duration, error) {
	d, ok := parseDuration(s)
	if !ok || d < 0 {
		return 0, badRequest("grace", "grace %q: want whole seconds, such as 24h, 7d or 0", clip(s))
	}
	return d, nil
}

// parseSpan reads a time such as 24h or 7d, in whole seconds and more than none.
func parseSpan(field, s string) (time.Duration, error) {
	d, ok := parseDuration(s)
	if !ok || d <= 0 {
		return 0, badRequest(field, "%s %q: want whole seconds, such as 12h or 7d", field, clip(s))
	}
	return d, nil
}

func parseDuration(s string) (time.Duration, bool) {
	d, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		d = time.Duration(n) * 24 * time.Hour
	}
	return d, err == nil && d%time.Second == 0
}

func parseStatus(s *string) (*access.Status, error) {
	if s == nil {
		return nil, nil
	}
	status, err := access.ParseStatus(*s)
	if err != nil {
		return nil, badRequest("status", "unknown status %q", clip(*s))
	}
	return &status, nil
}

// query reads limit, cursor and the given parameters, and refuses others.
func (c *call) query(names ...string) (map[string]string, int, error) {
	q, err := c.parameters(append(names, "limit", "cursor")...)
	if err != nil {
		return nil, 0, err
	}
	if q["limit"] == "" {
		return q, 0, nil
	}
	limit, err := strconv.Atoi(q["limit"])
	if err != nil || limit < 1 {
		return nil, 0, badRequest("limit", "limit %q: want 1 to %d", clip(q["limit"]), registrar.MaxLimit)
	}
	return q, limit, nil
}

// parameters reads the given parameters of the query, and refuses others: a
// filter with a slip in its name must not list everything.
func (c *call) parameters(names ...string) (map[string]string, error) {
	values, err := url.ParseQuery(c.URL.RawQuery)
	if err != nil {
		return nil, badRequest("", "the query is not well formed")
	}
	q := map[string]string{}
	for n, v := range values {
		if !slices.Contains(names, n) {
			return nil, badRequest(clip(n), "there is no parameter %q here", clip(n))
		}
		if len(v) != 1 || v[0] == "" {
			return nil, badRequest(n, "the parameter %s wants one value", n)
		}
		q[n] = v[0]
	}
	return q, nil
}

// link names the next page in the header, as RFC 8288 has it.
func (c *call) link(next string) {
	if next == "" {
		return
	}
	q := c.URL.Query()
	q.Set("cursor", next)
	c.header.Set("Link", fmt.Sprintf("<%s?%s>; rel=\"next\"", c.URL.EscapedPath(), q.Encode()))
}
