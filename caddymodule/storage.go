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
	// Backend returns the place of storage. master is the configured master key,
	// or nil if none is configured. It must not open or make anything.
	Backend(master *token.Master) (store.Backend, error)
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
func (b *BoltStorage) Backend(master *token.Master) (store.Backend, error) {
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
	return boltstore.New(boltstore.Options{Path: path, Master: master})
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
// key.
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
		if a.master, err = readMaster(a.MasterKey); err != nil {
			return err
		}
	}
	a.backend, err = guest.Backend(a.master)
	return err
}

var errMasterText = errors.New("master_key: write {file./etc/keytoll/master.key} or {env.KEYTOLL_MASTER_KEY}: a key written here, or by {$…}, would be in every dump of the configuration")

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

// readMaster resolves the placeholder. The key itself must not stand in the
// configuration, which Caddy shows and saves.
func readMaster(text string) (*token.Master, error) {
	if !placeholder(text) {
		return nil, errMasterText
	}
	value, err := caddy.NewReplacer().ReplaceOrErr(text, true, true)
	if err != nil {
		return nil, fmt.Errorf("master_key %s: there is no such value, or it is empty", text)
	}
	m, err := token.ParseMaster(value)
	if err != nil {
		return nil, fmt.Errorf("master_key %s: %w", text, err)
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

// acquire opens the engine of a backend or joins the one that is open.
func acquire(b store.Backend, master *token.Master) (*engine.Engine, error) {
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
	if master != nil && !master.Equal(e.Master) {
		_, _ = engines.Delete(b.Identity())
		return nil, fmt.Errorf("%w: the running server has %s open with another master key", store.ErrMasterKey, b.Identity())
	}
	return e, nil
}

// Interface guards
var (
	_ Storage               = (*BoltStorage)(nil)
	_ caddyfile.Unmarshaler = (*BoltStorage)(nil)
	_ caddy.Destructor      = pooled{}
)
