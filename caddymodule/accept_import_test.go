package caddymodule

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// movedIn is a key of another product, in a form that such products keep.
type movedIn struct {
	name, secret string
	alg          uint8 // before its first use
	key          registrar.ImportKey
}

func movedKeys(t *testing.T) []movedIn {
	t.Helper()
	sum := sha256.Sum256([]byte("old_sha256_secret_1"))
	salted := sha256.Sum256([]byte("pepper" + "old_salted_secret_2"))
	slow, err := bcrypt.GenerateFromPassword([]byte("old_bcrypt_secret_3"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	raw := base64.RawStdEncoding
	salt := []byte("0123456789abcdef")
	memory := "$argon2id$v=19$m=64,t=1,p=1$" + raw.EncodeToString(salt) + "$" +
		raw.EncodeToString(argon2.IDKey([]byte("old_argon2_secret_4"), salt, 1, 64, 1, 32))
	const foreign = 3
	return []movedIn{
		{"sha256", "old_sha256_secret_1", 2, registrar.ImportKey{SHA256: sum[:], Hint: "old_sha"}},
		{"salted", "old_salted_secret_2", foreign, registrar.ImportKey{Hash: "sha256:" + hex.EncodeToString([]byte("pepper")) + ":" + hex.EncodeToString(salted[:]), Hint: "old_sal"}},
		{"bcrypt", "old_bcrypt_secret_3", foreign, registrar.ImportKey{Hash: string(slow), Hint: "old_bcr"}},
		{"argon2", "old_argon2_secret_4", foreign, registrar.ImportKey{Hash: memory}},
		{"plain", "old_plain_secret_5", token.AlgHMAC, registrar.ImportKey{Secret: token.Wrap("old_plain_secret_5")}},
	}
}

// moveIn imports the keys for a tenant, with their names, and returns their
// ids.
func (g *gateway) moveIn(tenant string, keys []movedIn, change func(*registrar.ImportKey)) []access.KeyID {
	g.t.Helper()
	list := make([]registrar.ImportKey, len(keys))
	for i, k := range keys {
		list[i] = k.key
		list[i].Line, list[i].Tenant, list[i].Name = i+1, tenant, k.name
		if change != nil {
			change(&list[i])
		}
	}
	results, err := g.registrar().Import(g.t.Context(), list, registrar.ImportOptions{CreateTenants: true})
	if err != nil {
		g.t.Fatal(err)
	}
	ids := make([]access.KeyID, len(keys))
	for i, r := range results {
		if r.Err != nil {
			g.t.Fatalf("%s: %v", keys[i].name, r.Err)
		}
		ids[i] = r.ID
	}
	return ids
}

func (g *gateway) algOf(id access.KeyID) uint8 {
	g.t.Helper()
	k, err := g.registrar().Key(g.t.Context(), id)
	if err != nil {
		g.t.Fatal(err)
	}
	return k.Alg
}

// Keys that were moved in pass the gate at once, become ours with their first
// use, and pass after a restart.
func TestMovedKeysBecomeOurs(t *testing.T) {
	g := newGateway(t, "throttle_failures off", apiSite)
	keys := movedKeys(t)
	ids := g.moveIn("acme", keys, nil)
	for i, k := range keys {
		if got := g.algOf(ids[i]); got != k.alg {
			t.Errorf("%s: digest of kind %d, want %d", k.name, got, k.alg)
		}
		g.api("GET", "/", k.secret+"x", "").expect(t, 401)
		g.api("GET", "/", strings.ToUpper(k.secret), "").expect(t, 401)
		g.api("GET", "/", k.secret, "").expect(t, 200)
		saw := g.upstream.last(t).Header
		if saw.Get("X-Key-Id") != ids[i].String() || saw.Get("X-Tenant-Id") != "acme" {
			t.Errorf("%s: the upstream saw %v", k.name, saw)
		}
		eventually(t, k.name+" is ours", func() bool { return g.algOf(ids[i]) == token.AlgHMAC })
		if stored, err := g.registrar().Key(t.Context(), ids[i]); err != nil || stored.Imported != nil {
			t.Errorf("%s: %+v, %v", k.name, stored, err)
		}
		g.api("GET", "/", k.secret, "").expect(t, 200)
	}
	g.restart()
	for _, k := range keys {
		g.api("GET", "/", k.secret, "").expect(t, 200)
		g.api("GET", "/", k.secret+"x", "").expect(t, 401)
		if strings.Contains(g.log(), k.secret) {
			t.Errorf("%s: the log has the secret", k.name)
		}
	}
	for i, id := range g.moveIn("acme", keys, nil) {
		if id != ids[i] {
			t.Errorf("%s: a second import made %s, the first %s", keys[i].name, id, ids[i])
		}
	}
	if n := g.count("acme"); n != len(keys) {
		t.Errorf("%d keys, want %d", n, len(keys))
	}
}

// A restart before the first use forgets nothing.
func TestMovedKeysAfterARestart(t *testing.T) {
	g := newGateway(t, "", apiSite)
	keys := movedKeys(t)
	g.moveIn("acme", keys, func(k *registrar.ImportKey) { k.Rate = &access.Rate{Requests: 9, Burst: 9, Window: time.Hour} })
	g.restart()
	for _, k := range keys {
		if r := g.api("GET", "/", k.secret, "").expect(t, 200); r.Header.Get("X-RateLimit-Limit") != "9" {
			t.Errorf("%s: %v", k.name, r.Header)
		}
	}
}

// What the other product had ended stays ended.
func TestMovedKeysThatAreNotGood(t *testing.T) {
	past := time.Now().Add(-time.Hour)
	for name, change := range map[string]func(*registrar.ImportKey){
		"revoked":  func(k *registrar.ImportKey) { k.Revoked = true },
		"disabled": func(k *registrar.ImportKey) { k.Disabled = true },
		"expired":  func(k *registrar.ImportKey) { k.Expires = past },
	} {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t, "throttle_failures off", apiSite)
			keys := movedKeys(t)
			g.moveIn("acme", keys, change)
			for _, k := range keys {
				if r := g.api("GET", "/", k.secret, ""); r.StatusCode != 401 {
					t.Errorf("%s: status %d", k.name, r.StatusCode)
				}
			}
			g.restart()
			for _, k := range keys {
				if r := g.api("GET", "/", k.secret, ""); r.StatusCode != 401 {
					t.Errorf("%s after a restart: status %d", k.name, r.StatusCode)
				}
			}
		})
	}
}

// A key that was moved in is managed like any other, by the door.
func TestMovedKeysAtTheDoor(t *testing.T) {
	g := newGateway(t, "permission read\npermission keys:manage", strings.Replace(apiSite, "base "+keysPath, "base "+keysPath+"\n require keys:manage", 1))
	keys := movedKeys(t)
	used := time.Now().Add(-48 * time.Hour).Truncate(time.Second)
	ids := g.moveIn("acme", keys, func(k *registrar.ImportKey) {
		k.LastUsed, k.Permissions, k.Metadata = used, []string{"keys:manage"}, map[string]string{"from": "before"}
	})
	_, theirs := g.key("other", registrar.CreateKeyRequest{Permissions: []string{"keys:manage"}})
	for i, k := range keys {
		path := keysPath + "/" + ids[i].String()
		g.api("GET", path, theirs, "").expect(t, 404)
		me := g.api("GET", "/v1/me", k.secret, "").expect(t, 200)
		if me.text(t, "id") != ids[i].String() || me.text(t, "name") != k.name {
			t.Errorf("%s: %s", k.name, me.body)
		}
		eventually(t, k.name+" is ours", func() bool { return g.algOf(ids[i]) == token.AlgHMAC })
		r := g.api("POST", path+"/rotate", k.secret, `{"grace_seconds":600}`).expect(t, 200)
		if !strings.HasPrefix(r.text(t, "key"), "kt_") {
			t.Errorf("%s: %s", k.name, r.body)
		}
		if old := g.api("GET", "/", k.secret, "").expect(t, 200); old.deprecated(t) == 0 {
			t.Errorf("%s: %v", k.name, old.Header)
		}
		g.api("DELETE", path, r.text(t, "key"), "").expect(t, 204)
		g.api("GET", "/", k.secret, "").expect(t, 401)
		g.api("GET", "/", r.text(t, "key"), "").expect(t, 401)
	}
	// A second run of the import brings none of them back.
	g.moveIn("acme", keys, nil)
	for _, k := range keys {
		if r := g.api("GET", "/", k.secret, ""); r.StatusCode != 401 {
			t.Errorf("%s is back: status %d", k.name, r.StatusCode)
		}
	}
}

// The last use of a key that was moved in is known before its first use here.
func TestMovedLastUse(t *testing.T) {
	g := newGateway(t, "", apiSite)
	_, m := g.key("acme", registrar.CreateKeyRequest{})
	used := time.Now().Add(-48 * time.Hour).Truncate(time.Second).UTC()
	ids := g.moveIn("acme", movedKeys(t), func(k *registrar.ImportKey) { k.LastUsed = used })
	for i, id := range ids {
		r := g.api("GET", keysPath+"/"+id.String(), m, "").expect(t, 200)
		if r.instant(t, "last_used_at") != used.Unix() {
			t.Errorf("%d: %s", i, r.body)
		}
	}
}

// An imported key that was never used here cannot keep its old secret beside a
// new one unless it can be looked up.
func TestMovedKeysRotatedUnseen(t *testing.T) {
	g := newGateway(t, "keys {\n rotate_settle 0s\n}", apiSite)
	_, m := g.key("acme", registrar.CreateKeyRequest{})
	keys := movedKeys(t)
	for i, id := range g.moveIn("acme", keys, nil) {
		path := keysPath + "/" + id.String() + "/rotate"
		want := 200
		if keys[i].alg == 3 {
			g.api("POST", path, m, `{"grace_seconds":600}`).expect(t, 409)
			g.api("POST", path, m, `{"grace_seconds":0}`).expect(t, 200)
			want = 401
		} else {
			g.api("POST", path, m, `{"grace_seconds":600}`).expect(t, 200)
		}
		if r := g.api("GET", "/", keys[i].secret, ""); r.StatusCode != want {
			t.Errorf("%s: status %d, want %d", keys[i].name, r.StatusCode, want)
		}
	}
}
