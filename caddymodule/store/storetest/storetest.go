// Package storetest checks that a store.Store keeps the contract: what every
// backend must do, whatever it is built on.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// Opener opens the store that lives in dir, making it the first time. It is
// called again after the store was closed and must then find what was stored.
type Opener func(t *testing.T, dir string) store.Store

// Restorer puts what Backup wrote in the place of the store that lives in dir,
// which is closed, in the way that the backend has for it.
type Restorer func(t *testing.T, dir string, backup []byte)

// Run runs the conformance suite.
func Run(t *testing.T, open Opener, restore Restorer) {
	t.Run("Bury", func(t *testing.T) { testBury(t, open, restore) })
	for _, c := range []struct {
		name string
		test func(*testing.T, Opener)
	}{
		{"Durability", testDurability},
		{"Atomicity", testAtomicity},
		{"Isolation", testIsolation},
		{"Errors", testErrors},
		{"Listing", testListing},
		{"WriteWhileListing", testWriteWhileListing},
		{"Blobs", testBlobs},
		{"Uses", testUses},
		{"Audit", testAudit},
		{"Answers", testAnswers},
		{"TenantPermissions", testTenantPermissions},
		{"Overrides", testOverrides},
		{"Usage", testUsage},
		{"FoldUsage", testFoldUsage},
		{"ProviderKeys", testProviderKeys},
		{"DataKeys", testDataKeys},
		{"ProviderErrors", testProviderErrors},
		{"FollowProviders", testFollowProviders},
		{"DeleteTenantProviders", testDeleteTenantProviders},
		{"RewriteProviders", testRewriteProviders},
		{"BackupCancel", testBackupCancel},
		{"Follow", testFollow},
		{"FollowFailures", testFollowFailures},
		{"DeleteTenant", testDeleteTenant},
		{"OwnCopies", testOwnCopies},
		{"Cancel", testCancel},
		{"Closed", testClosed},
		{"Model", testModel},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open) })
	}
}

var errStop = errors.New("stop")

func start(t *testing.T, open Opener) store.Store {
	t.Helper()
	s := open(t, t.TempDir())
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// NewTenant returns an active tenant with all fields set but Permissions,
// Override and Grants.
func NewTenant(id string) *access.Tenant {
	return &access.Tenant{ID: id, Name: "Tenant " + id, Plan: "pro", Status: access.StatusActive,
		Metadata: map[string]string{"region": "eu", "ünï": "✓"}, CreatedAt: time.Unix(1_700_000_000, 123_456_789).UTC()}
}

var networks = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}

// NewKey returns an active key with all fields set but Previous, Imported and
// Override; n makes its id and digest.
func NewKey(tenant string, n int) *access.Key {
	k := &access.Key{
		KeyHead: access.KeyHead{Alg: 1, Status: access.StatusActive, Expires: 1_900_000_000 + int64(n), Tenant: tenant,
			Environment: "live", Rate: access.Rate{Requests: 100, Burst: 20, Window: time.Minute},
			Rights: access.NewRights([]string{"read", "write"}, networks)},
		Name: fmt.Sprint("key ", n), Description: "for tests", Prefix: "ak_live_3fK9xQ",
		Metadata: map[string]string{"n": fmt.Sprint(n)}, CreatedAt: time.Unix(1_700_000_000, int64(n)).UTC(),
		RotatedAt: time.Unix(1_700_000_001, 0).UTC(),
	}
	copy(k.ID[:], fmt.Sprintf("%016d", n))
	copy(k.Digest[:], fmt.Sprintf("digest of %d", n))
	return k
}

func update(t *testing.T, s store.Store, fn func(store.Tx) error) {
	t.Helper()
	if err := s.Update(context.Background(), fn); err != nil {
		t.Fatalf("update: %v", err)
	}
}

func view(t *testing.T, s store.Store, fn func(store.Reader) error) {
	t.Helper()
	if err := s.View(context.Background(), fn); err != nil {
		t.Fatalf("view: %v", err)
	}
}

// put stores records in one transaction.
func put(t *testing.T, s store.Store, records ...any) {
	t.Helper()
	update(t, s, func(tx store.Tx) error {
		for _, r := range records {
			var err error
			switch r := r.(type) {
			case *access.Tenant:
				err = tx.PutTenant(r)
			case *access.Key:
				err = tx.CreateKey(r)
			case *access.ProviderKey:
				err = tx.PutProviderKey(r)
			case *access.DataKey:
				err = tx.PutDataKey(r)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s: got error %v, want %v", what, err, want)
	}
}

// mustTenant and mustKey read what has to be there.
func mustTenant(t *testing.T, s store.Store, id string) (v *access.Tenant) {
	t.Helper()
	view(t, s, func(r store.Reader) (err error) { v, err = r.Tenant(id); return err })
	return v
}

func mustKey(t *testing.T, s store.Store, id access.KeyID) (v *access.Key) {
	t.Helper()
	view(t, s, func(r store.Reader) (err error) { v, err = r.Key(id); return err })
	return v
}

func listTenants(t *testing.T, s store.Store, after string) (ids []string) {
	t.Helper()
	view(t, s, func(r store.Reader) error {
		return r.Tenants(after, func(v *access.Tenant) bool { ids = append(ids, v.ID); return true })
	})
	return ids
}

func listKeys(t *testing.T, s store.Store, tenant string, after access.KeyID) (ids []access.KeyID) {
	t.Helper()
	var keys, glanced []*access.Key
	view(t, s, func(r store.Reader) error {
		return r.Keys(tenant, after, func(v *access.Key) bool { ids, keys = append(ids, v.ID), append(keys, v); return true })
	})
	view(t, s, func(r store.Reader) (failed error) {
		err := r.Glance(tenant, after, func(g store.KeyGlance, read func() (*access.Key, error)) bool {
			k, err := read()
			if err != nil {
				failed = err
				return false
			}
			same(t, "glance at "+k.ID.String(), []any{g.ID, g.Status, string(g.Name)}, []any{k.ID, k.Status, k.Name})
			glanced = append(glanced, k)
			return true
		})
		return errors.Join(err, failed)
	})
	same(t, "keys glanced at", glanced, keys)
	return ids
}
