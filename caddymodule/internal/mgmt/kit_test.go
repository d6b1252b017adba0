package mgmt_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/dialect"
	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/internal/seal"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/store/boltstore"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// door is an operator door on a real store.
type door struct {
	t       *testing.T
	path    string
	handler *mgmt.Handler
	store   store.Store
	reg     *registrar.Registrar
	sum     func(string) [32]byte // the installation's digest of a secret
	client  *mgmt.Client
}

func newDoor(t *testing.T) *door {
	t.Helper()
	d := &door{t: t, path: filepath.Join(t.TempDir(), "keytoll.db")}
	d.open()
	t.Cleanup(func() { _ = d.store.Close() })
	d.handler = mgmt.NewHandler(func() (*registrar.Registrar, error) { return d.reg, nil },
		func() any { return map[string]int{"keys": 7} })
	d.handler.Installation = func() string { return "0123" }
	d.client = &mgmt.Client{Actor: "ada", Do: func(method, path string, h http.Header, body io.Reader) (*http.Response, error) {
		r := httptest.NewRequest(method, path, body)
		r.Header = h
		w := httptest.NewRecorder()
		d.handler.ServeHTTP(w, r)
		return w.Result(), nil
	}}
	return d
}

// open opens the store, also again.
func (d *door) open() {
	d.t.Helper()
	b, err := boltstore.New(boltstore.Options{Path: d.path})
	if err != nil {
		d.t.Fatal(err)
	}
	s, err := b.Open(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	permissions, err := access.NewPermissions([]access.Permission{{Name: "read"}, {Name: "write", Implies: []string{"read"}}})
	if err != nil {
		d.t.Fatal(err)
	}
	master := s.(*boltstore.Store).Master()
	d.store, d.sum = s, token.NewDigester(master).Sum
	d.reg = registrar.New(registrar.Options{Store: s, Digester: token.NewDigester(master),
		Prefixes:    func() []registrar.Prefix { return []registrar.Prefix{{Text: "ak_live_", Environment: "live"}} },
		Plans:       func() []string { return []string{"pro"} },
		Permissions: func() *access.Permissions { return permissions },
		Providers:   func() []string { return []string{"elevenlabs", "openai"} },
		Keyring:     func() *seal.Keyring { return seal.NewKeyring(seal.NewWrapper("master:test", [32]byte{1})) },
	})
}

// tenant makes a tenant and a key of it.
func (d *door) tenant(id string, permissions ...string) mgmt.Key {
	d.t.Helper()
	if _, err := d.client.Tenant(id); err != nil {
		if _, err := d.client.CreateTenant(mgmt.CreateTenant{ID: id}); err != nil {
			d.t.Fatal(err)
		}
	}
	k, err := d.client.CreateKey(id, mgmt.CreateKey{Name: "first", Permissions: permissions})
	if err != nil {
		d.t.Fatal(err)
	}
	return k
}

// desk is a tenant's door. The caller's key id stands in the header Caller.
type desk struct {
	*door
	o      mgmt.DeskOptions
	caller string
}

func (d *door) desk(caller string, dl *dialect.Dialect, change ...func(*mgmt.DeskOptions)) *desk {
	d.t.Helper()
	c, err := dl.Compile()
	if err != nil {
		d.t.Fatal(err)
	}
	k := &desk{door: d, caller: caller}
	k.o = mgmt.DeskOptions{Kind: mgmt.DeskKeys, Base: "/v1/api-keys", Dialect: c,
		Registrar: func() (*registrar.Registrar, error) { return d.reg, nil },
		CallerFrom: func(r *http.Request) (mgmt.Caller, bool) {
			id, err := access.ParseKeyID(r.Header.Get("Caller"))
			return mgmt.Caller{Key: id, Address: "192.0.2.1"}, err == nil
		}}
	for _, f := range change {
		f(&k.o)
	}
	return k
}

func (k *desk) send(method, path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Caller", k.caller)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	mgmt.NewDesk(k.o).ServeHTTP(w, r)
	if got := w.Header().Get("Cache-Control"); got != "no-store" {
		k.t.Errorf("%s %s: Cache-Control %q", method, path, got)
	}
	return w
}

// whole is an answer as the wire has it.
func whole(w *httptest.ResponseRecorder) string {
	var b bytes.Buffer
	_ = w.Result().Write(&b)
	return b.String()
}
