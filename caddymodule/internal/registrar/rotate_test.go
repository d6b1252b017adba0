package registrar_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/audit"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/token"
)

func (k *kit) issue(t testing.TB, req registrar.CreateKeyRequest) *registrar.Issued {
	t.Helper()
	out, err := k.IssueKey(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (k *kit) rotate(t testing.TB, id access.KeyID, grace time.Duration) *registrar.Issued {
	t.Helper()
	out, err := k.RotateKey(t.Context(), id, registrar.RotateRequest{Grace: &grace})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// actions returns what the audit trail tells of an object, and verifies it.
func (k *kit) actions(t testing.TB, object string) string {
	t.Helper()
	if _, err := k.VerifyAudit(t.Context()); err != nil {
		t.Error(err)
	}
	var list []string
	for after := uint64(0); ; {
		page, next, err := k.Audit(t.Context(), registrar.AuditFilter{Object: object}, after, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page {
			list = append(list, e.Action)
		}
		if after = next; next == 0 {
			return strings.Join(list, " ")
		}
	}
}

func TestRotateKeepsTheKey(t *testing.T) {
	k := newKit(t)
	k.tenant(t, "acme")
	first := k.issue(t, registrar.CreateKeyRequest{Tenant: "acme", Environment: "test", Permissions: []string{"read"}, ExpiresIn: time.Hour})
	id := first.Key.ID
	second := k.rotate(t, id, 90*time.Second+1)
	p := second.Key.Previous
	if p == nil || p.Digest != first.Key.Digest || p.Until != start.Unix()+91 || p.Since != start.Unix() {
		t.Fatalf("previous %+v", p)
	}
	if second.Key.ID != id || second.Key.Digest != k.digester.Sum(second.Secret.Reveal()) || !strings.HasPrefix(second.Secret.Reveal(), "ak_test_") ||
		second.Key.Expires != first.Key.Expires || !reflect.DeepEqual(second.Key.Rights, first.Key.Rights) {
		t.Errorf("rotated %+v", second.Key)
	}
	third := k.rotate(t, id, 2*time.Hour)
	if p := third.Key.Previous; p.Digest != second.Key.Digest || p.Until != first.Key.Expires {
		t.Errorf("rotated twice: previous %+v", p)
	}
	if stored, err := k.Key(t.Context(), id); err != nil || !reflect.DeepEqual(stored, third.Key) {
		t.Errorf("stored %+v, %v", stored, err)
	}
	if fourth := k.rotate(t, id, 0); fourth.Key.Previous != nil {
		t.Errorf("without grace: previous %+v", fourth.Key.Previous)
	}
	if got := k.actions(t, id.String()); got != "key.created key.rotated key.rotated key.rotated" {
		t.Errorf("audit %s", got)
	}
}

func TestRotateRefuses(t *testing.T) {
	k := newKit(t)
	k.tenant(t, "acme")
	for name, spoil := range map[string]func(id access.KeyID) error{
		"revoked":  func(id access.KeyID) error { _, err := k.RevokeKey(t.Context(), id); return err },
		"disabled": func(id access.KeyID) error { _, err := k.DisableKey(t.Context(), id); return err },
		"expired":  func(access.KeyID) error { k.now = k.now.Add(time.Minute); return nil },
	} {
		id := k.issue(t, registrar.CreateKeyRequest{Tenant: "acme", ExpiresIn: time.Minute}).Key.ID
		if err := spoil(id); err != nil {
			t.Fatal(err)
		}
		_, err := k.RotateKey(t.Context(), id, registrar.RotateRequest{})
		if e := wantError(t, err, registrar.Conflict, "key"); !strings.Contains(e.Message, name) {
			t.Errorf("%s: %s", name, e.Message)
		}
	}
	id := k.key(t, "acme").ID
	for _, grace := range []time.Duration{-1, registrar.MaxGrace + 1} {
		_, err := k.RotateKey(t.Context(), id, registrar.RotateRequest{Grace: &grace})
		wantError(t, err, registrar.InvalidRequest, "grace")
	}
	k.policy.RotateGrace = 48 * time.Hour
	if out, err := k.RotateKey(t.Context(), id, registrar.RotateRequest{}); err != nil || out.Key.Previous.Until != k.now.Unix()+48*3600 {
		t.Error(out, err)
	}
	_, err := k.RotateKey(t.Context(), access.KeyID([]byte("0000000000000000")), registrar.RotateRequest{})
	wantError(t, err, registrar.NotFound, "key")
}

func TestSettle(t *testing.T) {
	k := newKit(t)
	k.tenant(t, "acme")
	id := k.key(t, "acme").ID
	k.rotate(t, id, time.Hour)
	until := func() int64 {
		key, err := k.Key(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return key.Previous.Until - start.Unix()
	}
	for _, step := range []struct {
		settle, at time.Duration
		want       int64
	}{{0, 0, 3600}, {2 * time.Hour, 0, 3600}, {time.Minute, 0, 60}, {time.Minute, time.Second, 60}} {
		k.policy.RotateSettle, k.now = step.settle, start.Add(step.at)
		if err := k.SettleRotation(t.Context(), id); err != nil || until() != step.want {
			t.Errorf("%+v: until %d, %v", step, until(), err)
		}
	}
}

func TestRevokeSecret(t *testing.T) {
	k := newKit(t)
	k.tenant(t, "acme")
	present := k.issue(t, registrar.CreateKeyRequest{Tenant: "acme"})
	old := k.issue(t, registrar.CreateKeyRequest{Tenant: "acme"})
	k.rotate(t, old.Key.ID, time.Hour)
	past := k.issue(t, registrar.CreateKeyRequest{Tenant: "acme"})
	k.rotate(t, past.Key.ID, 0)
	foreign := "sk-0123456789abcdefghij"
	sum := sha256.Sum256([]byte(foreign))
	if _, err := k.Import(t.Context(), []registrar.ImportKey{{Tenant: "acme", SHA256: sum[:]}}, registrar.ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]token.Secret{"present": present.Secret, "in its grace": old.Secret, "sha-256": token.Wrap(foreign)} {
		for range 2 {
			if key, err := k.RevokeSecret(t.Context(), s); name != "in its grace" && (err != nil || key.Status != access.StatusRevoked) {
				t.Errorf("%s: %+v, %v", name, key, err)
			}
		}
	}
	if key, err := k.Key(t.Context(), old.Key.ID); err != nil || key.Status != access.StatusRevoked || key.Previous != nil {
		t.Errorf("by its old secret: %+v, %v", key, err)
	}
	for _, s := range []token.Secret{past.Secret, token.Wrap("nobody's")} {
		_, err := k.RevokeSecret(t.Context(), s)
		if e := wantError(t, err, registrar.NotFound, "secret"); strings.Contains(e.Message+e.Hint, s.Reveal()) {
			t.Errorf("the error holds the secret: %v", e)
		}
	}
}

// A secret is revoked also if its key is adopted between two looks at the index.
func TestRevokeSecretBesideAdoption(t *testing.T) {
	k := newKit(t)
	k.tenant(t, "acme")
	const foreign = "sk-0123456789abcdefghij"
	sum, ours := sha256.Sum256([]byte(foreign)), k.digester.Sum(foreign)
	out, err := k.Import(t.Context(), []registrar.ImportKey{{Tenant: "acme", SHA256: sum[:]}}, registrar.ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	id := out[0].ID
	if err := k.Adopt(t.Context(), id, token.AlgSHA256, sum, token.Wrap(foreign)); err != nil {
		t.Fatal(err)
	}
	known := sum // to the index, which is behind the store until it was asked
	r := registrar.New(registrar.Options{Store: k.store, Digester: k.digester, Find: func(d [32]byte) (access.KeyID, bool) {
		found := d == known
		known = ours
		return id, found
	}})
	if key, err := r.RevokeSecret(t.Context(), token.Wrap(foreign)); err != nil || key.ID != id || key.Status != access.StatusRevoked {
		t.Errorf("%+v, %v", key, err)
	}
}

func TestAdopt(t *testing.T) {
	k := newKit(t)
	k.tenant(t, "acme")
	text := "sk-0123456789abcdefghij"
	sum := sha256.Sum256([]byte(text))
	out, err := k.Import(t.Context(), []registrar.ImportKey{{Tenant: "acme", SHA256: sum[:]}, {Tenant: "acme", Hint: "pk-", Hash: "$2b$10$x"}}, registrar.ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	slow, err := k.Key(t.Context(), out[1].ID)
	if err != nil || slow.Imported == nil || slow.Alg != 3 {
		t.Fatal(slow, err)
	}
	ctx := t.Context()
	if err := errors.Join(k.Adopt(ctx, out[0].ID, 2, sum, token.Wrap("another")), k.Adopt(ctx, out[1].ID, 3, sum, token.Wrap("pk-1"))); err != nil {
		t.Fatal(err)
	}
	if got := k.actions(t, out[0].ID.String()) + k.actions(t, out[1].ID.String()); got != "" {
		t.Errorf("adopted what does not fit: %s", got)
	}
	for range 2 {
		if err := errors.Join(k.Adopt(ctx, out[0].ID, 2, sum, token.Wrap(text)), k.Adopt(ctx, out[1].ID, 3, slow.Digest, token.Wrap("pk-1"))); err != nil {
			t.Fatal(err)
		}
	}
	for i, text := range []string{text, "pk-1"} {
		key, err := k.Key(ctx, out[i].ID)
		if err != nil || key.Alg != token.AlgHMAC || key.Digest != k.digester.Sum(text) || key.Imported != nil || k.actions(t, key.ID.String()) != "key.adopted" {
			t.Errorf("%+v, %v", key, err)
		}
	}
}

func TestIdempotency(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keytoll.db")
	k := openKit(t, path)
	k.tenant(t, "acme")
	req := registrar.CreateKeyRequest{Tenant: "acme", Name: "ci", ExpiresIn: time.Second, Permissions: []string{"read"},
		Idempotency: &registrar.Idempotency{Key: "u1", Scope: "operator", Body: [32]byte{1}}}
	var mu sync.Mutex
	var wg sync.WaitGroup
	answers := map[string]int{}
	for range 8 { // at once: one key, eight times the same answer
		wg.Go(func() {
			out, err := k.IssueKey(t.Context(), req)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
				return
			}
			answers[out.Secret.Reveal()+fmt.Sprint(out.Key.KeyHead.Digest, out.Key.CreatedAt, out.Key.Permissions())]++
		})
	}
	wg.Wait()
	if len(answers) != 1 || len(k.events) != 1 {
		t.Fatalf("%d answers, events %v", len(answers), k.events)
	}
	first := k.issue(t, req)
	if _, err := k.RevokeKey(t.Context(), first.Key.ID); err != nil {
		t.Fatal(err)
	}
	if err := k.store.Close(); err != nil {
		t.Fatal(err)
	}
	k = openKit(t, path)
	k.now = start.Add(10*time.Minute - time.Second)
	again := k.issue(t, req) // its key has expired and is revoked; the answer is the same
	if !again.Replayed || again.Secret.Reveal() != first.Secret.Reveal() || !reflect.DeepEqual(again.Key, first.Key) {
		t.Errorf("after a restart %+v, first %+v", again.Key, first.Key)
	}
	other := req
	other.Idempotency = &registrar.Idempotency{Key: "u1", Scope: "operator", Body: [32]byte{2}}
	_, err := k.IssueKey(t.Context(), other)
	wantError(t, err, registrar.Mismatch, "idempotency_key")
	other.Idempotency = &registrar.Idempotency{Key: "u1", Scope: "key_x", Body: [32]byte{2}}
	if out := k.issue(t, other); out.Replayed {
		t.Error("replayed to another caller")
	}
	for _, text := range []string{"", "a b", "ä", strings.Repeat("x", 256)} {
		req.Idempotency = &registrar.Idempotency{Key: text}
		_, err := k.IssueKey(t.Context(), req)
		wantError(t, err, registrar.InvalidRequest, "idempotency_key")
	}
	k.now = start.Add(10 * time.Minute)
	req.Idempotency = &registrar.Idempotency{Key: "u1", Scope: "operator", Body: [32]byte{2}}
	if out := k.issue(t, req); out.Replayed || out.Secret.Reveal() == first.Secret.Reveal() {
		t.Error("replayed after ten minutes")
	}
}

func TestIdempotentRotation(t *testing.T) {
	k := newKit(t)
	k.tenant(t, "acme")
	id := k.key(t, "acme").ID
	req := registrar.RotateRequest{Idempotency: &registrar.Idempotency{Key: "r", Scope: "operator"}}
	first, err := k.RotateKey(t.Context(), id, req)
	if err != nil {
		t.Fatal(err)
	}
	again, err := k.RotateKey(t.Context(), id, req)
	if err != nil || !again.Replayed || again.Secret.Reveal() != first.Secret.Reveal() || k.actions(t, id.String()) != "key.created key.rotated" {
		t.Errorf("%+v, %v", again, err)
	}
	other := k.key(t, "acme").ID
	if out, err := k.RotateKey(t.Context(), other, req); err != nil || out.Replayed {
		t.Errorf("another key: %+v, %v", out, err)
	}
}

func TestRevokeWinsOverRotate(t *testing.T) {
	k := newKit(t)
	k.tenant(t, "acme")
	for range 10 {
		id := k.key(t, "acme").ID
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := k.RevokeKey(t.Context(), id); err != nil {
				t.Error(err)
			}
		})
		for range 3 {
			wg.Go(func() {
				if _, err := k.RotateKey(t.Context(), id, registrar.RotateRequest{}); err != nil {
					wantError(t, err, registrar.Conflict, "key")
				}
			})
		}
		wg.Wait()
		if key, err := k.Key(t.Context(), id); err != nil || key.Status != access.StatusRevoked || key.Previous != nil {
			t.Errorf("%+v, %v", key, err)
		}
	}
}

func TestAuditTamper(t *testing.T) {
	k := newKit(t)
	k.tenant(t, "acme")
	k.key(t, "acme")
	if n, err := k.VerifyAudit(t.Context()); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	err := k.store.Update(t.Context(), func(tx store.Tx) error {
		seq, last, err := tx.LastAudit()
		return errors.Join(err, tx.PutAudit(seq+1, last))
	})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := k.VerifyAudit(t.Context()); n != 2 || !errors.Is(err, audit.ErrBroken) {
		t.Error(n, err)
	}
}
