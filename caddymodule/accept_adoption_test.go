package caddymodule

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// Keys of other products, imported and learned, pass from their first request
// on and at every moment of becoming ours, whatever else changes meanwhile: at
// the gate, and at the doors of the management API.
func TestNoRequestIsRefusedByAdoption(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Org", "moved")
		if !strings.HasPrefix(r.Header.Get("X-Key"), "learned_") {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(backend.Close)
	g := newGateway(t, `throttle_failures off
		learn {
			check GET `+backend.URL+`
			header X-Key {key}
			tenant header:X-Org
			until 2999-01-01T00:00:00Z
			rate 1000/1s
		}`, apiSite)
	stop := g.changeKeys("busy")
	for round := range 12 {
		keys := foreignKeys(t, round)
		ids := g.moveIn("moved", keys, nil)
		keys = append(keys, movedIn{name: "learned", secret: fmt.Sprintf("learned_secret_%d", round)})
		var wg sync.WaitGroup
		for _, k := range keys {
			for _, path := range []string{"/", "/v1/me", "/", "/v1/me"} {
				wg.Go(func() { g.passes(k, path) })
			}
		}
		wg.Wait()
		for i, id := range ids {
			eventually(t, keys[i].name+" is ours", func() bool { return g.algOf(id) == token.AlgHMAC })
		}
	}
	stop()
}

// foreignKeys are new keys of which each kind of hash is known. Only one is known
// by a slow or salted one, so that with its adoption there is none.
func foreignKeys(t *testing.T, round int) []movedIn {
	t.Helper()
	text := func(kind string) string { return fmt.Sprintf("%s_secret_%d", kind, round) }
	sum := sha256.Sum256([]byte(text("plain")))
	slow := movedIn{name: "salted", secret: text("salted")}
	if round%2 == 0 {
		salted := sha256.Sum256([]byte("pepper" + slow.secret))
		slow.key.Hash = "sha256:" + hex.EncodeToString([]byte("pepper")) + ":" + hex.EncodeToString(salted[:])
	} else {
		slow.name, slow.secret = "bcrypt", text("bcrypt")
		hash, err := bcrypt.GenerateFromPassword([]byte(slow.secret), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		slow.key.Hash = string(hash)
	}
	return []movedIn{{name: "sha256", secret: text("plain"), key: registrar.ImportKey{SHA256: sum[:]}}, slow}
}

// passes sends requests with a key, over some milliseconds in which it is
// adopted.
func (g *gateway) passes(k movedIn, path string) {
	for n := range 25 {
		req, err := http.NewRequest("GET", g.url+path, nil)
		if err != nil {
			g.t.Error(err)
			return
		}
		req.Header.Set("X-API-Key", k.secret)
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			g.t.Errorf("%s, request %d to %s: %v", k.name, n, path, err)
			return
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			g.t.Errorf("%s, request %d to %s: %s %s %v", k.name, n, path, resp.Status, body, err)
		}
	}
}

// changeKeys creates, rotates and revokes keys of a tenant until the returned
// function is called.
func (g *gateway) changeKeys(tenant string) (stop func()) {
	g.t.Helper()
	reg, ctx, grace := g.registrar(), g.t.Context(), time.Hour
	if err := reg.EnsureTenant(ctx, registrar.CreateTenantRequest{ID: tenant}); err != nil {
		g.t.Fatal(err)
	}
	change := func() error {
		key, _, err := reg.CreateKey(ctx, registrar.CreateKeyRequest{Tenant: tenant})
		if err != nil {
			return err
		}
		if _, err := reg.RotateKey(ctx, key.ID, registrar.RotateRequest{Grace: &grace}); err != nil {
			return err
		}
		_, err = reg.RevokeKey(ctx, key.ID)
		return err
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if err := change(); err != nil {
				g.t.Error(err)
				return
			}
		}
	})
	return func() { close(done); wg.Wait() }
}
