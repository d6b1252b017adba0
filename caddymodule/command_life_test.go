package caddymodule

import (
	"encoding/json"
	"errors"
	"os/user"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
)

// clerk runs commands against one server and sees that no secret comes out of
// any that does not make one.
type clerk struct {
	t       *testing.T
	addr    string
	secrets []string
}

func newClerk(t *testing.T) *clerk { return &clerk{t: t, addr: adminServer(t)} }

func (c *clerk) try(stdin string, args ...string) (out, errs string, err error) {
	c.t.Helper()
	out, errs, err = keytollIn(stdin, append(args, "--address", c.addr)...)
	makes := len(args) > 1 && (args[1] == "rotate" || args[1] == "create")
	for _, secret := range c.secrets {
		if strings.Contains(errs, secret) || strings.Contains(out, secret) && !makes {
			c.t.Errorf("%v gives away a secret:\n%s%s", args, out, errs)
		}
	}
	return out, errs, err
}

func (c *clerk) run(args ...string) string {
	c.t.Helper()
	out, errs, err := c.try("", args...)
	if err != nil {
		c.t.Fatalf("%v: %v\n%s", args, err, errs)
	}
	return out
}

// key runs a command that prints a key as JSON.
func (c *clerk) key(args ...string) (k mgmt.Key) {
	c.t.Helper()
	out := c.run(append(args, "--json")...)
	if err := json.Unmarshal([]byte(out), &k); err != nil {
		c.t.Fatalf("%v: %v\n%s", args, err, out)
	}
	if k.Key != "" {
		c.secrets = append(c.secrets, k.Key)
	}
	return k
}

func TestCommandKeyLife(t *testing.T) {
	c := newClerk(t)
	c.run("tenants", "create", "acme")
	create := []string{"keys", "create", "--tenant", "acme", "--name", "Build", "--description", "ci", "--expires-in", "36h",
		"--allow-from", "192.0.2.7,2001:db8::/32", "--permissions", "read", "--idempotency-key", "one"}
	k := c.key(create...)
	if k.Description != "ci" || k.ExpiresAt.Sub(k.CreatedAt).Round(time.Minute) != 36*time.Hour ||
		strings.Join(k.Addresses, " ") != "192.0.2.7/32 2001:db8::/32" {
		t.Errorf("created %+v", k)
	}
	if again := c.key(create...); again.Key != k.Key || again.ID != k.ID {
		t.Errorf("sent twice: %s and %s", k.ID, again.ID)
	}
	if _, errs, err := c.try("", append(create, "--burst", "3", "--rate", "9/1m")...); err == nil || !strings.Contains(errs, "hint: ") {
		t.Errorf("another request of the same name: %v %s", err, errs)
	}
	u := c.key("keys", "update", k.ID, "--never", "--rate", "9/1m", "--allow-from", "", "--permissions", "read,write", "--metadata", "a=b",
		"--description", "", "--disable")
	if u.ExpiresAt != nil || u.Rate == nil || len(u.Addresses) != 0 || len(u.Permissions) != 2 || u.Metadata["a"] != "b" ||
		u.Description != "" || u.Name != "Build" || u.Status != "disabled" || u.Key != "" {
		t.Errorf("updated %+v", u)
	}
	u = c.key("keys", "update", k.ID, "--plan-rate", "--metadata", "", "--expires", "1d", "--enable", "--name", "b2")
	if u.ExpiresAt == nil || time.Until(*u.ExpiresAt) < 24*time.Hour-time.Minute || u.Rate != nil || len(u.Metadata) != 0 || u.Status != "active" || u.Name != "b2" {
		t.Errorf("updated %+v", u)
	}
	r := c.key("keys", "rotate", k.ID, "--grace", "1d", "--idempotency-key", "two")
	if r.Key == k.Key || r.ID != k.ID || r.PreviousExpiresAt == nil {
		t.Errorf("rotated %+v", r)
	}
	if again := c.key("keys", "rotate", k.ID, "--grace", "1d", "--idempotency-key", "two"); again.Key != r.Key {
		t.Error("a rotation that was sent twice rotated twice")
	}
	out, errs, err := c.try("", "keys", "rotate", k.ID, "--grace", "0")
	if err != nil || !strings.HasPrefix(out, "ak_live_") || strings.Count(out, "\n") != 1 || !strings.Contains(errs, "the old secret is dead") {
		t.Errorf("rotated to %q, %s, %v", out, errs, err)
	}
	if out := c.run("keys", "show", k.ID); !strings.Contains(out, "rotated") || strings.Contains(out, "old secret until") {
		t.Errorf("show\n%s", out)
	}
	if out := c.run("keys", "list", "--name", "B2"); strings.Count(out, "key_") != 1 {
		t.Errorf("list\n%s", out)
	}
}

func TestCommandRevokesLeakedKeys(t *testing.T) {
	c := newClerk(t)
	c.run("tenants", "create", "acme")
	a, b, kept := c.key("keys", "create", "--tenant", "acme"), c.key("keys", "create", "--tenant", "acme"), c.key("keys", "create", "--tenant", "acme")
	nobodys := "ak_live_" + strings.Repeat("x", 38)
	c.secrets = append(c.secrets, nobodys)
	out, errs, err := c.try(a.Key+"\r\n\n "+nobodys+"\n"+b.Key, "keys", "revoke", "--secret", "--json")
	var list mgmt.KeyList
	if bad := json.Unmarshal([]byte(out), &list); bad != nil || err == nil || len(list.Keys) != 2 || list.Keys[0].ID != a.ID || list.Keys[1].Status != "revoked" {
		t.Fatalf("revoked %s %v", out, bad)
	}
	if !strings.Contains(errs, "line 2: ") || !strings.Contains(errs, "1 of 3 keys were not revoked") || !strings.Contains(errs, "hint: ") {
		t.Errorf("said %s", errs)
	}
	if out := c.run("keys", "list", "--status", "active", "--json"); !strings.Contains(out, kept.ID) || strings.Contains(out, a.ID) {
		t.Errorf("left\n%s", out)
	}
	if out := c.run("keys", "revoke", kept.ID, b.ID); strings.Count(out, "revoked") != 2 {
		t.Errorf("two ids\n%s", out)
	}
	if _, errs, err := c.try(strings.Repeat("k", 600), "keys", "revoke", "--secret"); err == nil || !strings.Contains(errs, "longer than any key") || strings.Contains(errs, "kkk") {
		t.Errorf("a long line: %v %s", err, errs)
	}
}

func TestInspect(t *testing.T) {
	c := newClerk(t)
	c.run("tenants", "create", "acme")
	k := c.key("keys", "create", "--tenant", "acme")
	last := byte('a')
	if k.Key[len(k.Key)-1] == last {
		last = 'b'
	}
	typo := k.Key[:len(k.Key)-1] + string(last)
	c.secrets = append(c.secrets, typo, "hunter2-hunter2-hunter2")
	for name, test := range map[string]struct {
		stdin string
		flags []string
		want  inspection
		fails bool
	}{
		"minted":        {k.Key + "\n", nil, inspection{"minted", "ak_live_", new(true), "live", k.Prefix}, false},
		"typo":          {typo, nil, inspection{"wrong_checksum", "ak_live_", new(true), "live", k.Prefix}, true},
		"of others":     {k.Key, []string{"--prefix", "kt_=test"}, inspection{"minted", "ak_live_", new(false), "", k.Prefix}, false},
		"named":         {k.Key, []string{"--prefix", "ak_live_=prod"}, inspection{"minted", "ak_live_", new(true), "prod", k.Prefix}, false},
		"offline":       {k.Key, []string{"--address", "127.0.0.1:1"}, inspection{"minted", "ak_live_", nil, "", k.Prefix}, false},
		"another's key": {"hunter2-hunter2-hunter2", nil, inspection{Form: "other", Shown: "hunte"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"keys", "inspect", "--json"}, test.flags...)
			if !slices.Contains(args, "--address") {
				args = append(args, "--address", c.addr)
			}
			out, errs, err := keytollIn(test.stdin, args...)
			var got inspection
			if bad := json.Unmarshal([]byte(out), &got); bad != nil || (err != nil) != test.fails || test.fails != strings.Contains(errs, "hint: ") {
				t.Fatalf("%s %s %v %v", out, errs, err, bad)
			}
			known := func(b *bool) string { j, _ := json.Marshal(b); return string(j) }
			if got.Form != test.want.Form || got.Prefix != test.want.Prefix || known(got.Known) != known(test.want.Known) ||
				got.Environment != test.want.Environment || got.Shown != test.want.Shown {
				t.Errorf("got %s, want %+v", out, test.want)
			}
			for _, secret := range c.secrets {
				if strings.Contains(out+errs, secret) {
					t.Errorf("the key is shown:\n%s%s", out, errs)
				}
			}
		})
	}
	if _, errs, err := c.try(k.Key+"\n"+typo, "keys", "inspect"); err == nil || !strings.Contains(errs, "reads one key, not 2") {
		t.Errorf("two keys: %v %s", err, errs)
	}
	if out, _, _ := c.try(k.Key, "keys", "inspect"); !strings.Contains(out, "checksum     right") {
		t.Errorf("text\n%s", out)
	}
}

func TestTenantUpdate(t *testing.T) {
	c := newClerk(t)
	show := func(args ...string) (tn mgmt.Tenant) {
		t.Helper()
		if err := json.Unmarshal([]byte(c.run(append(args, "--json")...)), &tn); err != nil {
			t.Fatal(err)
		}
		return tn
	}
	if tn := show("tenants", "create", "acme", "--permissions", "read,write", "--metadata", "a=b"); len(tn.Permissions) != 2 {
		t.Errorf("created %+v", tn)
	}
	if tn := show("tenants", "update", "acme", "--name", "Acme", "--permissions", "", "--metadata", "c=d"); tn.Name != "Acme" || tn.Permissions == nil || len(tn.Permissions) != 0 || tn.Metadata["a"] != "" || tn.Metadata["c"] != "d" {
		t.Errorf("updated %+v", tn)
	}
	if tn := show("tenants", "update", "acme", "--any-permission"); tn.Permissions != nil || tn.Name != "Acme" || tn.Metadata["c"] != "d" {
		t.Errorf("updated %+v", tn)
	}
	if out := c.run("tenants", "list"); !strings.Contains(out, "any") {
		t.Errorf("list\n%s", out)
	}
}

func TestAuditCommands(t *testing.T) {
	c := newClerk(t)
	c.run("tenants", "create", "acme")
	k := c.key("keys", "create", "--tenant", "acme")
	c.run("keys", "revoke", k.ID)
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	var list mgmt.AuditList
	if err := json.Unmarshal([]byte(c.run("audit", "list", "--object", k.ID, "--since", "1h", "--json")), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Entries) != 2 || list.Entries[1].Action != "key.revoked" || list.Entries[1].Actor.Kind != access.ActorOperator || list.Entries[1].Actor.Name != me.Username {
		t.Errorf("entries %+v", list.Entries)
	}
	out, errs, err := c.try("", "audit", "list", "--limit", "1")
	if err != nil || strings.Count(out, "\n") != 2 || !strings.Contains(errs, "there are more: ") {
		t.Errorf("one of three: %s %s %v", out, errs, err)
	}
	if out := c.run("audit", "list", "--limit", "9", "--cursor", "1"); strings.Count(out, "\n") != 3 {
		t.Errorf("the other two:\n%s", out)
	}
	if out := c.run("audit", "list", "--until", "1h"); strings.Count(out, "\n") != 1 {
		t.Errorf("an hour ago:\n%s", out)
	}
	if out := c.run("audit", "verify", "--json"); !strings.Contains(out, `"entries": 3`) {
		t.Errorf("verify: %s", out)
	}
}

// A list is one JSON value however many pages it has, and says where it ends.
func TestListJSON(t *testing.T) {
	c := newClerk(t)
	c.run("tenants", "create", "acme")
	for range 105 {
		c.key("keys", "create", "--tenant", "acme", "--name", "<&>")
	}
	seen := map[string]bool{}
	cursor := ""
	for _, want := range []int{103, 2} {
		args := []string{"keys", "list", "--limit", "103", "--json"}
		if cursor != "" {
			args = append(args, "--cursor", cursor)
		}
		out := c.run(args...)
		var list mgmt.KeyList
		if err := json.Unmarshal([]byte(out), &list); err != nil || len(list.Keys) != want {
			t.Fatalf("%d keys, %v", len(list.Keys), err)
		}
		if strings.Contains(out, `\u003c`) || !strings.HasPrefix(out, "{\n  \"keys\": [\n    {\n      \"id\"") || !strings.HasSuffix(out, "\n}\n") {
			t.Errorf("form:\n%.200s", out)
		}
		for _, k := range list.Keys {
			seen[k.ID] = true
		}
		cursor = list.Next
	}
	if len(seen) != 105 || cursor != "" {
		t.Errorf("%d keys, cursor %q", len(seen), cursor)
	}
	if out := c.run("keys", "list", "--name", "nobody", "--all", "--json"); out != "{\n  \"keys\": []\n}\n" {
		t.Errorf("an empty list is %q", out)
	}
}

func TestErrorsOf(t *testing.T) {
	a := errors.New("a")
	if errorsOf(nil, nil) != nil || errorsOf(nil, a, errors.New("b")) != a {
		t.Error("want the first")
	}
}
