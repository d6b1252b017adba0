package caddymodule

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
)

// rekeyBench is a gateway whose database was made under the file old, and what
// its options are with either key, or both.
type rekeyBench struct {
	*gateway
	old, next, both, back string
}

func newRekeyBench(t *testing.T) *rekeyBench {
	t.Helper()
	dir := t.TempDir()
	line := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return "master_key {file." + file + "}\n"
	}
	old, next := line("old.key", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="), line("next.key", anotherMaster)
	b := &rekeyBench{old: old + byokOptions, next: next + byokOptions, both: next + old + byokOptions, back: old + next + byokOptions}
	b.gateway = newGateway(t, b.old, b.site())
	return b
}

func (b *rekeyBench) site() string { return byokSite("byok elevenlabs") }

// reopen stops Caddy and starts it with these options.
func (b *rekeyBench) reopen(options string) error {
	b.t.Helper()
	if err := caddy.Stop(); err != nil {
		b.t.Fatal(err)
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	return b.tryLoad(b.text(options, b.site()))
}

// uses fails unless the tenant's stored key goes up, and nothing is charged.
func (b *rekeyBench) uses(tenant, key, stored string) {
	b.t.Helper()
	b.do("GET", "/", "X-Api-Key: "+key).expect(b.t, 200).bypass(b.t, true, "elevenlabs")
	b.upstream.last(b.t).has(b.t, elevenHeader, stored)
	if got := b.used(tenant); got != 0 {
		b.t.Errorf("%s used %s", tenant, got)
	}
}

// The master key is replaced: configured twice, `caddy keytoll rekey`, and then
// the new one alone opens the database and what is stored in it.
func TestRekey(t *testing.T) {
	b := newRekeyBench(t)
	_, key := b.key("acme", hourly(1000))
	_, other := b.key("other", hourly(1000))
	b.keep("acme", "elevenlabs", elevenKey)
	b.keep("acme", "openai", openaiKey)
	b.keep("other", "elevenlabs", "sk_of_other_0123456789")
	all := func() {
		t.Helper()
		b.uses("acme", key, elevenKey)
		b.uses("other", other, "sk_of_other_0123456789")
	}
	all()
	if err := b.reopen(b.next); err == nil {
		t.Fatal("the new key alone opens the database before it is told to")
	}
	if err := b.reopen(b.both); err != nil {
		t.Fatal(err)
	}
	all()
	_, third := b.key("third", hourly(1000))
	b.keep("third", "elevenlabs", "sk_of_third_0123456789") // under the new one at once

	c := b.clerk(t)
	c.secrets = append(c.secrets, elevenKey, openaiKey, anotherMaster)
	if r := asJSON[mgmt.RekeyReport](c, "rekey"); r.Tenants != 2 || r.Keys != 3 || r.Pending != 0 || !r.Done || r.Failed != "" {
		t.Errorf("%+v", r)
	}
	all()
	if r := asJSON[mgmt.RekeyReport](c, "rekey"); r.Tenants != 0 || r.Keys != 0 || !r.Done {
		t.Errorf("once more: %+v", r)
	}
	says(t, c.run("audit", "list", "--action", "data_key.rekeyed"), "acme", "other")
	b.load(b.next, b.site())
	all()
	if err := b.reopen(b.old); err == nil || !strings.Contains(err.Error(), "was replaced") {
		t.Errorf("the old key alone: %v", err)
	}
	if err := b.reopen(b.next); err != nil {
		t.Fatal(err)
	}
	all() // unsealed anew
	b.uses("third", third, "sk_of_third_0123456789")
	if k := b.storedKeys(key); len(k) != 2 || k[0]["last_four"] != "cdef" {
		t.Errorf("%v", k)
	}
	if log := b.log(); strings.Contains(log, anotherMaster) || strings.Contains(log, elevenKey) {
		t.Error("the log has a secret")
	}
	// And back again, in the same way.
	b.load(b.back, b.site())
	b.clerk(t).run("rekey")
	if err := b.reopen(b.old); err != nil {
		t.Fatal(err)
	}
	all()
}

// A rekey that is interrupted has lost nothing, and goes on where it was: those
// that are not done need the old key as long, and are refused without it.
func TestRekeyIsInterrupted(t *testing.T) {
	b := newRekeyBench(t)
	const tenants = rekeyBatch + 1
	name := func(i int) string { return fmt.Sprintf("tenant-%03d", i) }
	_, first := b.key(name(0), hourly(1000))
	_, last := b.key(name(tenants-1), hourly(1000))
	for i := range tenants {
		b.key(name(i), hourly(1000))
		b.keep(name(i), "elevenlabs", fmt.Sprintf("sk_of_%03d_0123456789", i))
	}
	b.load(b.both, b.site())
	part := b.operator("POST", "/rekey", "").expect(t, 200).object(t)
	if part["tenants"] != float64(rekeyBatch) || part["pending"] != 1.0 || part["done"] != false {
		t.Fatalf("%v", part)
	}
	both := func(lastOpens bool) {
		t.Helper()
		b.uses(name(0), first, "sk_of_000_0123456789")
		if lastOpens {
			b.uses(name(tenants-1), last, "sk_of_200_0123456789")
			return
		}
		n := b.upstream.count()
		b.do("GET", "/", "X-Api-Key: "+last).expect(t, 503).bypass(t, false)
		if b.upstream.count() != n || b.used(name(tenants-1)) != 0 {
			t.Error("a request went on with the platform's own key")
		}
	}
	both(true)
	if err := b.reopen(b.next); err != nil { // too early
		t.Fatal(err)
	}
	both(false)
	if err := b.reopen(b.both); err != nil {
		t.Fatal(err)
	}
	both(true)
	if r := asJSON[mgmt.RekeyReport](b.clerk(t), "rekey"); r.Tenants != 1 || r.Pending != 0 || !r.Done {
		t.Errorf("%+v", r)
	}
	if err := b.reopen(b.old); err == nil {
		t.Error("the old key alone opens the database")
	}
	if err := b.reopen(b.next); err != nil {
		t.Fatal(err)
	}
	both(true)
}

// A KMS wraps in place of the master key once it is configured and a rekey was
// run. What it does not open is refused, and works again when it does.
func TestKMSGuest(t *testing.T) {
	theKMS.reset(t)
	b := newRekeyBench(t)
	_, key := b.key("acme", hourly(1000))
	b.keep("acme", "elevenlabs", elevenKey)
	guest := "kms acceptance\n" + b.old
	b.load(guest, b.site())
	b.uses("acme", key, elevenKey)
	theKMS.fails.Store(true)
	if _, errs, err := b.clerk(t).try("", "rekey"); err == nil || strings.Contains(errs, elevenKey) {
		t.Errorf("a rekey without the service: %v %s", err, errs)
	}
	b.uses("acme", key, elevenKey)
	theKMS.fails.Store(false)
	if r := asJSON[mgmt.RekeyReport](b.clerk(t), "rekey"); r.Tenants != 1 || r.Keys != 1 || !r.Done {
		t.Errorf("%+v", r)
	}
	if err := b.reopen(guest); err != nil {
		t.Fatal(err)
	}
	b.uses("acme", key, elevenKey)
	if theKMS.calls.Load() == 0 {
		t.Error("the service was not asked")
	}
	theKMS.fails.Store(true)
	asked := theKMS.calls.Load()
	for range 20 {
		b.uses("acme", key, elevenKey) // as it was unsealed a moment ago
	}
	if theKMS.calls.Load() != asked {
		t.Error("the service was asked for what is known")
	}

	refused := func() {
		t.Helper()
		n := b.upstream.count()
		b.do("GET", "/", "X-Api-Key: "+key).expect(t, 503).bypass(t, false)
		if b.upstream.count() != n || b.used("acme") != 0 {
			t.Error("a request went on with the platform's own key")
		}
		b.do("GET", "/", "X-Api-Key: "+key, elevenHeader+": sk_own").expect(t, 200).bypass(t, true, "elevenlabs")
	}
	if err := b.reopen(guest); err != nil { // the service is not needed for a start
		t.Fatal(err)
	}
	refused()
	b.api("POST", storedPath, key, `{"provider":"elevenlabs","api_key":"`+openaiKey+`"}`).expect(t, 503)
	theKMS.fails.Store(false)
	eventually(t, "the service is asked again", func() bool { return b.do("GET", "/", "X-Api-Key: "+key).StatusCode == 200 })
	b.uses("acme", key, elevenKey)
	says(t, b.log(), errKMS.Error())

	if err := b.reopen(b.old); err != nil { // without the service
		t.Fatal(err)
	}
	refused()
	says(t, b.log(), "is not configured: \\\"acceptance:key/1\\\"")
	b.load(guest, b.site())
	eventually(t, "the service is back", func() bool { return b.do("GET", "/", "X-Api-Key: "+key).StatusCode == 200 })
	b.uses("acme", key, elevenKey)
}

// A slow service holds up those alone that need it, and asks for one key once.
func TestSlowKMS(t *testing.T) {
	theKMS.reset(t)
	b := newRekeyBench(t)
	guest := "kms acceptance\n" + b.old
	b.load(guest, b.site())
	_, key := b.key("acme", hourly(1000))
	_, other := b.key("other", hourly(1000))
	b.keep("acme", "elevenlabs", elevenKey)
	if err := b.reopen(guest); err != nil {
		t.Fatal(err)
	}
	wait := make(chan struct{})
	theKMS.slow.Store(&wait)
	asked := theKMS.calls.Load()
	var replies []<-chan int
	for range 8 {
		replies = append(replies, b.background("GET", "/", "X-Api-Key: "+key))
	}
	eventually(t, "the service is asked", func() bool { return theKMS.calls.Load() > asked })
	b.do("GET", "/", "X-Api-Key: "+other).expect(t, 200).bypass(t, false)
	b.do("GET", "/", "X-Api-Key: "+key, elevenHeader+": sk_own").expect(t, 200).bypass(t, true, "elevenlabs")
	close(wait)
	for _, c := range replies {
		if status := <-c; status != 200 {
			t.Errorf("status %d", status)
		}
	}
	if n := theKMS.calls.Load() - asked; n > 2 {
		t.Errorf("8 requests for one key made %d calls", n)
	}
	b.uses("acme", key, elevenKey)

	// One that does not answer is given up.
	if err := b.reopen(guest); err != nil {
		t.Fatal(err)
	}
	never := make(chan struct{})
	theKMS.slow.Store(&never)
	n := b.upstream.count()
	b.do("GET", "/", "X-Api-Key: "+key).expect(t, 503).bypass(t, false)
	if b.upstream.count() != n || b.used("acme") != 0 {
		t.Error("a request went on with the platform's own key")
	}
	close(never)
	eventually(t, "the service is asked again", func() bool { return b.do("GET", "/", "X-Api-Key: "+key).StatusCode == 200 })
	b.uses("acme", key, elevenKey)
}
