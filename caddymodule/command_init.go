package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/store/boltstore"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// defaultDatabase is where the database is unless a path is given: in Caddy's
// application data directory.
func defaultDatabase() string { return filepath.Join(caddy.AppDataDir(), "keytoll", "keytoll.db") }

// initLockWait is how long init waits for a database that is open elsewhere:
// a server does not let go of it, so waiting long only hides the reason.
const initLockWait = time.Second

func initCommand() *cobra.Command {
	cmd := leaf("init [--db <path>] [--tenant <id>] [--key-name <text>] [--prefix <prefix> [--environment <name>]] [--json]",
		"Makes a database with a master key, a tenant and a first key", `  $ caddy keytoll init
  $ caddy keytoll init --db /var/lib/keytoll/keytoll.db --tenant acme --key-name laptop`, 0, runInit)
	cmd.Long = `Makes, for a server that is not running, the database, its master key in the
file master.key beside it, a tenant and its first key, which is printed once.
Run it as the user that Caddy runs as.

A running server makes its database itself: there, use
'caddy keytoll tenants create' and 'caddy keytoll keys create'.`
	f := cmd.Flags()
	f.String("db", "", "Path of the database (default: "+defaultDatabase()+")")
	f.String("tenant", "default", "Tenant to create")
	f.String("key-name", "first key", "Name of the key")
	f.String("prefix", defaultPrefix, "Key prefix; the configuration must have it too")
	f.String("environment", "", "Environment of the prefix, as in the configuration")
	return cmd
}

func runInit(s *session, _ []string) error {
	prefix, tenant := s.text("prefix"), s.text("tenant")
	if err := errors.Join(token.CheckPrefix(prefix), access.CheckTenantID(tenant)); err != nil {
		return usage("%s", err)
	}
	if err := access.CheckName(s.text("key-name")); err != nil {
		return usage("--key-name: %s", err)
	}
	environment := s.text("environment")
	if environment != "" && access.CheckPermission(environment) != nil {
		return usage("--environment %q: want visible ASCII without quotes, comma and backslash", environment)
	}
	path := s.text("db")
	if path == "" {
		path = defaultDatabase()
	}
	k, err := initialize(path, tenant, s.text("key-name"), registrar.Prefix{Text: prefix, Environment: environment})
	if err != nil {
		return initFailure(err, path, tenant)
	}
	if err := s.printNewKey(k); err != nil {
		return err
	}
	note(s.err, "database %s, master key %s", path, filepath.Join(filepath.Dir(path), "master.key"))
	note(s.err, "back up both: neither is of use without the other")
	return nil
}

// initialize opens or makes the database and closes it again.
func initialize(path, tenant, name string, prefix registrar.Prefix) (k mgmt.Key, err error) {
	ctx := registrar.WithActor(context.Background(), access.Actor{Kind: access.ActorOperator, Name: actor()})
	backend, err := boltstore.New(boltstore.Options{Path: path, Timeout: initLockWait})
	if err != nil {
		return k, err
	}
	opened, err := backend.Open(ctx)
	if err != nil {
		return k, err
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	master := opened.(*boltstore.Store).Master()
	reg := registrar.New(registrar.Options{
		Store:    opened,
		Digester: token.NewDigester(master),
		Prefixes: func() []registrar.Prefix { return []registrar.Prefix{prefix} },
	})
	if _, err := reg.CreateTenant(ctx, registrar.CreateTenantRequest{ID: tenant}); err != nil {
		return k, err
	}
	key, secret, err := reg.CreateKey(ctx, registrar.CreateKeyRequest{Tenant: tenant, Name: name})
	if err != nil {
		return k, err
	}
	k = mgmt.ShowKey(key)
	k.Key = secret.Reveal()
	return k, nil
}

func initFailure(err error, path, tenant string) error {
	if errors.Is(err, store.ErrLocked) {
		return &failure{message: fmt.Sprintf("database %s is open in another process, such as a running caddy", path), hints: []string{
			"let that process do it: caddy keytoll tenants create " + tenant,
			"then: caddy keytoll keys create --tenant " + tenant,
		}}
	}
	if e, ok := errors.AsType[*registrar.Error](err); ok && e.Code == registrar.Exists {
		return &failure{message: fmt.Sprintf("database %s has the tenant %s already", path, tenant), hints: []string{
			"start the server, then: caddy keytoll keys create --tenant " + tenant,
			"or name a new tenant with --tenant",
		}}
	}
	return err
}
