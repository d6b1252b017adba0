package registrar_test

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// modelKey is what a key must be.
type modelKey struct {
	status  access.Status
	expires int64
	secret  token.Secret
	old     token.Secret // zero for none
	until   int64        // end of old
}

type model struct {
	*kit
	t       *testing.T
	rand    *rand.Rand
	keys    map[access.KeyID]*modelKey
	ids     []access.KeyID
	entries uint64 // of the audit trail
}

// TestModel compares a registrar with a model of it over random changes.
func TestModel(t *testing.T) {
	for seed := range uint64(4) {
		m := &model{kit: newKit(t), t: t, rand: rand.New(rand.NewPCG(seed, 1)), keys: make(map[access.KeyID]*modelKey), entries: 1}
		m.tenant(t, "acme")
		m.policy.RotateSettle = time.Minute
		for range 150 {
			m.step()
			m.check()
		}
		if n, err := m.VerifyAudit(t.Context()); err != nil || n != m.entries {
			t.Errorf("seed %d: %d audit entries, want %d: %v", seed, n, m.entries, err)
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func (m *model) step() {
	m.now = m.now.Add(time.Duration(m.rand.IntN(120)) * time.Second)
	if len(m.ids) == 0 || m.rand.IntN(6) == 0 {
		m.create()
		return
	}
	id := m.ids[m.rand.IntN(len(m.ids))]
	k := m.keys[id]
	switch m.rand.IntN(7) {
	case 0:
		m.setStatus(id, k)
	case 1:
		_, err := m.RevokeKey(m.t.Context(), id)
		m.revoked(k, err)
	case 2:
		m.revokeSecret(k)
	case 3:
		m.settle(id, k)
	case 4:
		m.setExpiry(id, k)
	default:
		m.renew(id, k)
	}
}

func (m *model) create() {
	req := registrar.CreateKeyRequest{Tenant: "acme"}
	k := &modelKey{status: access.StatusActive}
	if m.rand.IntN(2) == 0 {
		req.ExpiresIn = time.Duration(1+m.rand.IntN(3600)) * time.Second
		k.expires = m.now.Add(req.ExpiresIn).Unix()
	}
	out := m.issue(m.t, req)
	k.secret, m.keys[out.Key.ID], m.ids, m.entries = out.Secret, k, append(m.ids, out.Key.ID), m.entries+1
}

func (m *model) expect(err error, good bool) {
	m.t.Helper()
	if good != (err == nil) {
		m.t.Errorf("error %v, want success: %t", err, good)
	}
	if err != nil {
		wantErrorCode(m.t, err, registrar.Conflict)
	}
}

func wantErrorCode(t *testing.T, err error, code registrar.Code) {
	t.Helper()
	if e, ok := errors.AsType[*registrar.Error](err); !ok || e.Code != code {
		t.Errorf("error %v, want code %s", err, code)
	}
}

func (m *model) setStatus(id access.KeyID, k *modelKey) {
	to := access.StatusActive + access.Status(m.rand.IntN(2))
	_, err := m.UpdateKey(m.t.Context(), id, registrar.KeyUpdate{Status: &to})
	m.expect(err, k.status != access.StatusRevoked)
	if err == nil && k.status != to {
		k.status = to
		m.entries++
	}
}

func (m *model) revoked(k *modelKey, err error) {
	if err != nil {
		m.t.Error(err)
	}
	if k.status != access.StatusRevoked {
		k.status, k.old = access.StatusRevoked, token.Secret{}
		m.entries++
	}
}

func (m *model) revokeSecret(k *modelKey) {
	if k.old.IsZero() || m.rand.IntN(2) == 0 {
		_, err := m.RevokeSecret(m.t.Context(), k.secret)
		m.revoked(k, err)
		return
	}
	_, err := m.RevokeSecret(m.t.Context(), k.old)
	if k.until > m.now.Unix() {
		m.revoked(k, err)
	} else {
		wantErrorCode(m.t, err, registrar.NotFound)
	}
}

func (m *model) settle(id access.KeyID, k *modelKey) {
	if err := m.SettleRotation(m.t.Context(), id); err != nil {
		m.t.Error(err)
	}
	if until := m.now.Unix() + 60; !k.old.IsZero() && k.until > until {
		k.until = until
		m.entries++
	}
}

func (m *model) setExpiry(id access.KeyID, k *modelKey) {
	at := m.now.Add(time.Duration(1+m.rand.IntN(7200)) * time.Second)
	_, err := m.UpdateKey(m.t.Context(), id, registrar.KeyUpdate{ExpiresAt: &at})
	m.expect(err, k.status != access.StatusRevoked)
	if err == nil && k.expires != at.Unix() {
		k.expires = at.Unix()
		k.until = min(k.until, k.expires)
		m.entries++
	}
}

func (m *model) renew(id access.KeyID, k *modelKey) {
	grace := time.Duration(m.rand.IntN(3)*m.rand.IntN(600)) * time.Second
	out, err := m.RotateKey(m.t.Context(), id, registrar.RotateRequest{Grace: &grace})
	m.expect(err, k.status == access.StatusActive && (k.expires == 0 || k.expires > m.now.Unix()))
	if err != nil {
		return
	}
	m.entries++
	k.old, k.until = token.Secret{}, 0
	if grace > 0 {
		k.old, k.until = k.secret, m.now.Add(grace).Unix()
		if k.expires != 0 {
			k.until = min(k.until, k.expires)
		}
	}
	k.secret = out.Secret
}

// check compares all keys.
func (m *model) check() {
	m.t.Helper()
	for id, want := range m.keys {
		k, err := m.Key(m.t.Context(), id)
		if err != nil {
			m.t.Fatal(err)
		}
		if k.Status != want.status || k.Expires != want.expires || k.Digest != m.digester.Sum(want.secret.Reveal()) {
			m.t.Errorf("stored %+v, want %+v", k, want)
		}
		if (k.Previous != nil) != !want.old.IsZero() {
			m.t.Errorf("stored previous %+v, want %+v", k.Previous, want)
		} else if p := k.Previous; p != nil && (p.Digest != m.digester.Sum(want.old.Reveal()) || p.Until != want.until) {
			m.t.Errorf("stored previous %+v, want %+v", p, want)
		}
	}
}
