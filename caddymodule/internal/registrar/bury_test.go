package registrar_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/store/boltstore"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// backAt puts the database back to a backup and opens it.
func (k *kit) backAt(t *testing.T, path string, backup []byte) *kit {
	t.Helper()
	if err := k.store.Close(); err != nil {
		t.Fatal(err)
	}
	from := filepath.Join(t.TempDir(), "backup")
	if err := errors.Join(os.WriteFile(from, backup, 0o600), boltstore.Restore(from, path, nil)); err != nil {
		t.Fatal(err)
	}
	return openKit(t, path)
}

func (k *kit) backup(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := k.store.Backup(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A backup from before an imported secret was adopted knows it by another
// digest than the one it has when it dies. It dies there too.
func TestBackupArmsNoAdoptedSecret(t *testing.T) {
	const secret = "old_secret_of_another_product"
	sum := sha256.Sum256([]byte(secret))
	for _, in := range []registrar.ImportKey{{Tenant: "acme", SHA256: sum[:]}, {Tenant: "acme", Hash: "$2b$hash"}} {
		for how, kill := range map[string]func(k *kit, id access.KeyID) error{
			"rotated": func(k *kit, id access.KeyID) error {
				_, err := k.RotateKey(t.Context(), id, registrar.RotateRequest{Grace: new(time.Duration)})
				return err
			},
			"rotated with grace": func(k *kit, id access.KeyID) error {
				_, err := k.RotateKey(t.Context(), id, registrar.RotateRequest{Grace: new(time.Hour)})
				return err
			},
			"revoked": func(k *kit, id access.KeyID) error { _, err := k.RevokeKey(t.Context(), id); return err },
			"unused":  func(*kit, access.KeyID) error { return nil },
		} {
			path := filepath.Join(t.TempDir(), "keytoll.db")
			k := openKit(t, path)
			k.tenant(t, "acme")
			out, err := k.Import(t.Context(), []registrar.ImportKey{in}, registrar.ImportOptions{})
			if err != nil || out[0].Err != nil {
				t.Fatal(out, err)
			}
			id, old := out[0].ID, k.backup(t)
			was, err := k.Key(t.Context(), id)
			if err == nil {
				err = k.Adopt(t.Context(), id, was.Alg, was.Digest, token.Wrap(secret))
			}
			if err = errors.Join(err, kill(k, id)); err != nil {
				t.Fatal(err)
			}
			want := access.StatusRevoked
			if how == "unused" {
				want = access.StatusActive
			}
			k = k.backAt(t, path, old)
			if got, err := k.Key(t.Context(), id); err != nil || got.Status != want {
				t.Errorf("alg %d, %s: %v, %v", was.Alg, how, got, err)
			}
		}
	}
}

// A secret whose grace ended, or would have, is not good for ever in a backup
// from before the rotation, whether a sweep saw the end or not.
func TestBackupArmsNoSecretInGrace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keytoll.db")
	k := openKit(t, path)
	k.tenant(t, "acme")
	id := k.key(t, "acme").ID
	before := k.backup(t)
	k.rotate(t, id, time.Hour)
	during := k.backup(t)
	k = k.backAt(t, path, during)
	if got, err := k.Key(t.Context(), id); err != nil || got.Status != access.StatusActive || got.Previous == nil {
		t.Errorf("backup of the grace: %v, %v", got, err)
	}
	if err := os.Remove(path + ".before-restore"); err != nil {
		t.Fatal(err)
	}
	k = k.backAt(t, path, before)
	if got, err := k.Key(t.Context(), id); err != nil || got.Status != access.StatusRevoked {
		t.Errorf("backup from before the rotation: %v, %v", got, err)
	}
}

// What a store revokes by itself is no longer among the keys that a plan
// counts.
func TestReplayedKeysMakeRoom(t *testing.T) {
	k := newKit(t)
	k.byName = map[string]*access.Plan{"pro": {Name: "pro", MaxKeys: 1}}
	if _, err := k.CreateTenant(t.Context(), registrar.CreateTenantRequest{ID: "acme", Plan: "pro"}); err != nil {
		t.Fatal(err)
	}
	id := k.key(t, "acme").ID
	err := k.store.Update(context.Background(), func(tx store.Tx) error { // as a replay does
		key, err := tx.Key(id)
		key.Status = access.StatusRevoked
		return errors.Join(err, tx.UpdateKey(key))
	})
	if err = errors.Join(err, k.RecordReplay(t.Context(), 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := k.IssueKey(t.Context(), registrar.CreateKeyRequest{Tenant: "acme"}); err != nil {
		t.Error(err)
	}
}

// A kept answer holds a secret: the caller must be good still, and have what
// the key has.
func TestReplayAsksForTheCaller(t *testing.T) {
	for name, spoil := range map[string]func(k *kit, caller access.KeyID) error{
		"disabled": func(k *kit, id access.KeyID) error { _, err := k.DisableKey(t.Context(), id); return err },
		"revoked":  func(k *kit, id access.KeyID) error { _, err := k.RevokeKey(t.Context(), id); return err },
		"expired":  func(k *kit, _ access.KeyID) error { k.now = k.now.Add(time.Minute); return nil },
		"suspended": func(k *kit, _ access.KeyID) error {
			_, err := k.SuspendTenant(t.Context(), "acme")
			return err
		},
		"narrowed": func(k *kit, id access.KeyID) error {
			_, err := k.UpdateKey(t.Context(), id, registrar.KeyUpdate{Permissions: &[]string{"read"}})
			return err
		},
	} {
		k, _, _ := deskKit(t)
		caller := k.issue(t, registrar.CreateKeyRequest{Tenant: "acme", Permissions: []string{"write"}, ExpiresIn: time.Minute}).Key.ID
		d := k.Desk(caller, access.Actor{Kind: access.ActorKey})
		create := registrar.CreateKeyRequest{Permissions: []string{"write"}, Idempotency: &registrar.Idempotency{Key: "a"}}
		made, err := d.IssueKey(t.Context(), create)
		if err != nil {
			t.Fatal(err)
		}
		rotate := registrar.RotateRequest{Idempotency: &registrar.Idempotency{Key: "b"}}
		if _, err := d.RotateKey(t.Context(), made.Key.ID, rotate); err != nil {
			t.Fatal(err)
		}
		if again, err := d.IssueKey(t.Context(), create); err != nil || !again.Replayed || again.Secret.Reveal() != made.Secret.Reveal() {
			t.Errorf("before: %+v, %v", again, err)
		}
		if err := spoil(k, caller); err != nil {
			t.Fatal(err)
		}
		for _, try := range []func() (*registrar.Issued, error){
			func() (*registrar.Issued, error) { return d.IssueKey(t.Context(), create) },
			func() (*registrar.Issued, error) { return d.RotateKey(t.Context(), made.Key.ID, rotate) },
		} {
			out, err := try()
			if e, ok := errors.AsType[*registrar.Error](err); !ok || e.Code != registrar.Forbidden || out != nil {
				t.Errorf("%s: %+v, %v", name, out, err)
			}
		}
	}
}

// The plan's rate is more than that of a caller with a lower one of its own.
func TestRotateAtDeskAsksForTheRate(t *testing.T) {
	for requests, want := range map[uint32]registrar.Code{9: registrar.Forbidden, 10: ""} {
		k, _, _ := deskKit(t)
		plan := access.Rate{Requests: 10, Burst: 10, Window: time.Minute}
		k.byName["pro"].Rates = []access.Rate{{Requests: 1000, Burst: 1000, Window: time.Hour}, plan}
		own := access.Rate{Requests: requests, Burst: requests, Window: time.Minute}
		caller := k.issue(t, registrar.CreateKeyRequest{Tenant: "acme", Rate: &own}).Key.ID
		other := k.key(t, "acme").ID
		_, err := k.Desk(caller, access.Actor{Kind: access.ActorKey}).RotateKey(t.Context(), other, registrar.RotateRequest{})
		if want == "" && err != nil {
			t.Error(err)
		} else if want != "" {
			wantError(t, err, want, "rate")
		}
	}
}

func TestTimesAreInDays(t *testing.T) {
	for max, want := range map[time.Duration]string{
		365 * 24 * time.Hour: "365d", 36 * time.Hour: "36h", 90 * time.Minute: "1h30m", 30 * time.Minute: "30m", 90 * time.Second: "1m30s",
	} {
		k := newKit(t)
		k.tenant(t, "acme")
		k.policy.MaxExpiry = max
		_, err := k.IssueKey(t.Context(), registrar.CreateKeyRequest{Tenant: "acme"})
		if e := wantError(t, err, registrar.InvalidRequest, "expires_at"); e.Message != fmt.Sprintf("a key needs an expiry: at most %s from now", want) {
			t.Error(e.Message)
		}
	}
}
