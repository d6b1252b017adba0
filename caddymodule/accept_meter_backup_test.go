package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/credit"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/store/boltstore"
)

const backupOptions = `
		plan free {
			credits 100000/month overage 10
			quota 1000000/day
		}
		default_plan free
`

const backupSite = "keytoll {\n\tcharge 1\n}\nreverse_proxy {upstream}"

// backup writes a backup of the running server.
func (g *gateway) backup(name string) {
	g.t.Helper()
	f, err := os.Create(filepath.Join(g.dir, name))
	if err != nil {
		g.t.Fatal(err)
	}
	defer f.Close()
	if _, err := activeBackup(g.t.Context(), f); err != nil {
		g.t.Fatal(err)
	}
}

// moveTo stops Caddy and goes on with a backup in another directory.
func (g *gateway) moveTo(backup, options, site string) {
	g.t.Helper()
	if err := caddy.Stop(); err != nil {
		g.t.Fatal(err)
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	to := g.t.TempDir()
	key, err := os.ReadFile(filepath.Join(g.dir, "master.key"))
	if err == nil {
		err = os.WriteFile(filepath.Join(to, "master.key"), key, 0o600)
	}
	if err == nil {
		err = boltstore.Restore(filepath.Join(g.dir, backup), filepath.Join(to, "keytoll.db"), nil)
	}
	if err != nil {
		g.t.Fatal(err)
	}
	g.dir = to
	g.load(options, site)
}

// quota returns what a tenant used of its first quota.
func (g *gateway) quota(tenant string) int64 {
	g.t.Helper()
	app, err := activeApp()
	if err != nil {
		g.t.Fatal(err)
	}
	a, err := app.account(tenant)
	if err != nil || len(a.Quotas) == 0 {
		g.t.Fatal(a, err)
	}
	return a.Quotas[0].Used
}

// A backup has what was counted at its moment, also while requests go on: the
// balances of a server that it is restored to are those, and go on from there.
func TestBackupHasTheCounters(t *testing.T) {
	g := newGateway(t, backupOptions, backupSite)
	tenants := []string{"t0", "t1", "t2", "t3"}
	keys := map[string]string{}
	for _, tenant := range tenants {
		_, keys[tenant] = g.key(tenant, hourly(1_000_000))
		if _, err := g.registrar().GrantCredits(t.Context(), tenant, registrar.GrantRequest{Amount: 50 * credits}); err != nil {
			t.Fatal(err)
		}
	}
	stop := make(chan struct{})
	var load sync.WaitGroup
	for _, tenant := range tenants {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				req, _ := http.NewRequest("GET", g.url+"/", nil)
				req.Header.Set("X-Api-Key", keys[tenant])
				resp, err := http.DefaultTransport.RoundTrip(req)
				if err != nil {
					t.Error(err)
					return
				}
				resp.Body.Close()
			}
		})
	}
	eventually(t, "load", func() bool { return g.used("t3") > 20*credits })
	var least, most [4]access.Credits
	for i, tenant := range tenants {
		least[i] = g.used(tenant)
	}
	g.backup("busy.db")
	for i, tenant := range tenants {
		most[i] = g.used(tenant)
	}
	close(stop)
	load.Wait()
	g.moveTo("busy.db", backupOptions, backupSite)
	var at [4]credit.Balance
	for i, tenant := range tenants {
		if at[i] = g.balance(tenant); at[i].Used < least[i] || at[i].Used > most[i] || at[i].Limit != 100_050*credits {
			t.Errorf("%s: used %s of %s, want %s to %s", tenant, at[i].Used, at[i].Limit, least[i], most[i])
		}
		if n := g.quota(tenant); n < int64(least[i]/credits) || n > int64(most[i]/credits)+1 {
			t.Errorf("%s: %d of the quota, want %s to %s", tenant, n, least[i], most[i])
		}
	}
	g.backup("quiet.db")
	g.do("GET", "/", "X-Api-Key: "+keys["t0"]).expect(t, 200)
	g.moveTo("quiet.db", backupOptions, backupSite)
	for i, tenant := range tenants {
		if b := g.balance(tenant); b != at[i] {
			t.Errorf("%s: %+v, want %+v", tenant, b, at[i])
		}
	}
	eventually(t, "a line in the log", func() bool { return strings.Contains(g.log(), "credits and quotas go on as they were at") })
}

// A grant that was spent and an overage stay so, and so do a key's own credits.
func TestBackupGrantsNothingTwice(t *testing.T) {
	options := strings.Replace(backupOptions, "100000/month overage 10", "10/month overage 2", 1)
	g := newGateway(t, options, backupSite)
	id, key := g.key("acme", hourly(1000))
	_, own := g.key("acme", hourly(1000))
	if _, err := g.registrar().SetKeyOverride(t.Context(), id, &access.Override{Credits: 3 * credits}); err != nil {
		t.Fatal(err)
	}
	grant, err := g.registrar().GrantCredits(t.Context(), "acme", registrar.GrantRequest{Amount: 5 * credits})
	if err != nil {
		t.Fatal(err)
	}
	spend := func(key string, n int) {
		t.Helper()
		for range n {
			g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
		}
		g.do("GET", "/", "X-Api-Key: "+key).expect(t, 402)
	}
	spend(key, 3)
	spend(own, 14)
	g.backup("spent.db")
	g.moveTo("spent.db", options, backupSite)
	spend(key, 0)
	spend(own, 0)
	app, err := activeApp()
	if err != nil {
		t.Fatal(err)
	}
	if a, err := app.account("acme"); err != nil || a.Left[grant.ID] != 0 || a.Credits.Remaining != 0 || a.Credits.Overage != 2*credits {
		t.Errorf("%+v, %v", a, err)
	}
}

// An older backup beside the counters of later takes back no use.
func TestRestoreBesideNewerCounters(t *testing.T) {
	g := newGateway(t, backupOptions, backupSite)
	_, key := g.key("acme", hourly(1000))
	for range 3 {
		g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	}
	g.backup("early.db")
	for range 4 {
		g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	out, errs, err := keytoll("check", g.dir+"/early.db", "--master-key", "{file."+g.dir+"/master.key}")
	if err != nil || !strings.Contains(out, "counters ") || !strings.Contains(out, "as of 20") {
		t.Errorf("%v\n%s%s", err, out, errs)
	}
	if out, errs, err := keytoll("restore", g.dir+"/early.db", "--db", g.dir+"/keytoll.db"); err != nil {
		t.Fatal(err, out, errs)
	}
	g.restart()
	if got := g.used("acme"); got != 7*credits {
		t.Errorf("used %s", got)
	}
}

// Damage to the copy of the counters is a problem that check tells.
func TestCheckTellsOfCounters(t *testing.T) {
	g := newGateway(t, backupOptions, backupSite)
	_, key := g.key("acme", hourly(1000))
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	for name, part := range map[string][]byte{"": nil, "counters/part/000000": []byte("short"), "counters/part/000009": {}, "counters/fold": {1}} {
		g.backup("x" + fmt.Sprint(len(name)) + ".db")
		path := g.dir + "/x" + fmt.Sprint(len(name)) + ".db"
		if name != "" {
			putBlob(t, g.dir, path, name, part)
		}
		out, errs, err := keytoll("check", path, "--json", "--master-key", "{file."+g.dir+"/master.key}")
		if name == "" {
			if err != nil || !strings.Contains(out, `"counters": 2,`) || !strings.Contains(out, `"counters_at": "20`) {
				t.Errorf("%v\n%s%s", err, out, errs)
			}
		} else if err == nil || !strings.Contains(out, "copy of") {
			t.Errorf("%s: %v\n%s%s", name, err, out, errs)
		}
		os.Remove(path)
	}
}

// putBlob changes a blob of a backup as who has the master key can.
func putBlob(t *testing.T, dir, path, name string, value []byte) {
	t.Helper()
	to := t.TempDir()
	key, err := os.ReadFile(dir + "/master.key")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to+"/master.key", key, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, to+"/x.db"); err != nil {
		t.Fatal(err)
	}
	b, err := boltstore.New(boltstore.Options{Path: to + "/x.db"})
	if err != nil {
		t.Fatal(err)
	}
	st, err := b.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = st.Update(t.Context(), func(tx store.Tx) error { return tx.PutBlob(name, value) })
	if err = errors.Join(err, st.Close(), os.Rename(to+"/x.db", path)); err != nil {
		t.Fatal(err)
	}
}

// A backup of a server that counts usage alone has lost no counters.
func TestNoCountersAreNotLost(t *testing.T) {
	const options, site = "plan free {\n\trate 100000/1h\n}\ndefault_plan free", "keytoll {\n\troute /* all\n}\nreverse_proxy {upstream}"
	g := newGateway(t, options, site)
	_, key := g.key("acme", hourly(1000))
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	g.ended(1)
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	g.restart()
	g.backup("plain.db")
	g.moveTo("plain.db", options, site)
	if got := g.counted(); got != 1 {
		t.Errorf("%d requests in usage", got)
	}
	if n := openEngine(t).Counts.StoreErrors.Load(); n != 0 {
		t.Errorf("%d troubles, of counters that there never were", n)
	}
}
