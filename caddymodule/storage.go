package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/keytoll/keytoll/caddymodule/internal/engine"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/store/boltstore"
	"github.com/keytoll/keytoll/caddymodule/token"
)

func init() {
	caddy.RegisterModule(new(BoltStorage))
}

// Storage is a guest in the namespace keytoll.storage.
type Storage interface {
	// Backend returns the place of storage. It must not open or make anything. A
	// backend that can do without a configured master key has a method
	//
	//	Master() (token.Master, error)
	//
	// that returns the one which is used then, once the store was opened.
	Backend(m Masters) (store.Backend, error)
}

// Masters are the configured master keys.
type Masters struct {
	Current  *token.Master // nil: none is configured
	Previous *token.Master // opens a store that Current does not open; nil: none
}

// BoltStorage keeps everything in one local file.
type BoltStorage struct {
	// The database file. Default: keytoll/keytoll.db in Caddy's application data
	// directory.
	Path string `json:"path,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*BoltStorage) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "keytoll.storage.bolt", New: func() caddy.Module { return new(BoltStorage) }}
}

// Backend returns the database file as a backend.
func (b *BoltStorage) Backend(m Masters) (store.Backend, error) {
	path := defaultDatabase()
	if b.Path != "" {
		var err error
		if path, err = caddy.NewReplacer().ReplaceOrErr(b.Path, true, true); err != nil {
			return nil, fmt.Errorf("storage path: %w", err)
		}
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	return boltstore.New(boltstore.Options{Path: path, Master: m.Current, Previous: m.Previous})
}

// UnmarshalCaddyfile reads
//
//	bolt {
//		path <file>
//	}
func (b *BoltStorage) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	for d.NextBlock(0) {
		switch d.Val() {
		case "path":
			if !d.AllArgs(&b.Path) {
				return d.ArgErr()
			}
		default:
			return unrecognized(d, "path")
		}
	}
	return nil
}

// provisionStorage loads the configuration of the storage guest and the master
// keys.
func (a *App) provisionStorage() error {
	if a.StorageRaw == nil {
		a.StorageRaw = []byte(`{"backend":"bolt"}`)
	}
	mod, err := a.ctx.LoadModule(a, "StorageRaw")
	if err != nil {
		return fmt.Errorf("loading storage module: %w", err)
	}
	guest, ok := mod.(Storage)
	if !ok {
		return fmt.Errorf("storage module %T is not for keytoll", mod)
	}
	if a.MasterKey != "" {
		if a.master, err = readMaster("master_key", a.MasterKey); err != nil {
			return err
		}
	}
	if a.PreviousMasterKey != "" {
		if a.previous, err = readMaster("previous_master_key", a.PreviousMasterKey); err != nil {
			return err
		}
	}
	a.backend, err = guest.Backend(Masters{Current: a.master, Previous: a.previous})
	return err
}

var errMasterText = errors.New("a master key: write {file./etc/keytoll/master.key} or {env.KEYTOLL_MASTER_KEY}: a key written here, or by {$…}, would be in every dump of the configuration")

// placeholder reports whether text is one {env.…} or {file.…}.
func placeholder(text string) bool {
	return (strings.HasPrefix(text, "{env.") || strings.HasPrefix(text, "{file.")) &&
		strings.IndexByte(text, '}') == len(text)-1
}

// checkMasterText refuses a key that stands in the Caddyfile itself.
func checkMasterText(d *caddyfile.Dispenser, text string) error {
	if !placeholder(text) {
		return d.WrapErr(errMasterText)
	}
	return nil
}

// readMaster resolves the placeholder, which is the value of option. The key
// itself must not stand in the configuration, which Caddy shows and saves.
func readMaster(option, text string) (*token.Master, error) {
	if !placeholder(text) {
		return nil, errMasterText
	}
	value, err := caddy.NewReplacer().ReplaceOrErr(text, true, true)
	if err != nil {
		return nil, fmt.Errorf("%s %s: there is no such value, or it is empty", option, text)
	}
	m, err := token.ParseMaster(value)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", option, text, err)
	}
	return &m, nil
}

// engines holds the open engine of each place of storage, shared by the
// configurations that use it.
var engines = caddy.NewUsagePool()

// pooled is an engine in the pool.
type pooled struct{ *engine.Engine }

// Destruct closes the engine.
func (p pooled) Destruct() error { return p.Close() }

// acquire opens the engine of the app's backend or joins the one that is open.
func (a *App) acquire() (*engine.Engine, error) {
	b := a.backend
	v, _, err := engines.LoadOrNew(b.Identity(), func() (caddy.Destructor, error) {
		e, err := engine.Open(context.Background(), b)
		if err != nil {
			return nil, err
		}
		return pooled{e}, nil
	})
	if err != nil {
		return nil, err
	}
	e := v.(pooled).Engine
	if err := a.admitMasters(e); err != nil {
		_, _ = engines.Delete(b.Identity())
		return nil, err
	}
	return e, nil
}

// admitMasters refuses master keys that would not open what e has open: the
// next start would fail. It sets the current one if none is configured.
func (a *App) admitMasters(e *engine.Engine) error {
	if b, ok := a.backend.(interface{ Master() (token.Master, error) }); ok && a.master == nil {
		m, err := b.Master()
		if err != nil {
			return err
		}
		a.master = &m
	}
	known := a.master == nil
	for _, m := range []*token.Master{a.master, a.previous} {
		known = known || m != nil && e.Opens(*m)
	}
	if !known {
		return fmt.Errorf("%w: the running server has %s open with another master key", store.ErrMasterKey, a.backend.Identity())
	}
	return nil
}

// Interface guards
var (
	_ Storage               = (*BoltStorage)(nil)
	_ caddyfile.Unmarshaler = (*BoltStorage)(nil)
	_ caddy.Destructor      = pooled{}
)
