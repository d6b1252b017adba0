package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// withSecrets gives a key what few keys have.
func withSecrets(k *access.Key) *access.Key {
	k.Previous = &access.Previous{Alg: 2, Since: 5, Until: 1 << 40}
	copy(k.Previous.Digest[:], fmt.Sprintf("previous of %s", k.ID[:]))
	k.Imported = &access.Imported{Hint: "ak_", Hash: "$2b$10$abc"}
	k.Override = &access.Override{Rate: access.Rate{Requests: 7, Burst: 8, Window: time.Hour}, Credits: access.MaxCredits, Concurrent: 9, MaxKeys: 10, Until: 1 << 41}
	return k
}

// withGrants gives a tenant what few tenants have.
func withGrants(v *access.Tenant) *access.Tenant {
	v.Permissions = []string{"read"}
	v.Override = &access.Override{Credits: 5*access.Credit + 1, MaxKeys: 1<<32 - 1}
	v.Grants = []access.Grant{
		{ID: "gr_0123456789abcdef", Amount: 1, Expires: 1 << 40, Note: "a gift ✓", CreatedAt: time.Unix(1_800_000_000, 0).UTC()},
		{ID: "gr_0123456789abcdeg", Amount: access.MaxCredits},
	}
	return v
}

func testUses(t *testing.T, open Opener) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, NewTenant("acme"), NewTenant("other"), NewKey("acme", 1), NewKey("other", 2))
	seen := follow(t, s)
	seen.log = nil
	id := func(n int) access.KeyID { return NewKey("", n).ID }
	uses := []access.Use{{At: 7, Address: netip.MustParseAddr("2001:db8::1"), Agent: "curl/8 ✓"}, {At: 8, Address: netip.MustParseAddr("::ffff:10.0.0.1")},
		{At: 9, Address: netip.MustParseAddr("10.0.0.1"), Agent: "x"}, {At: 10}}
	for _, u := range uses {
		update(t, s, func(tx store.Tx) error {
			return errors.Join(tx.PutUse(id(1), u), tx.PutUse(id(2), u), tx.PutUse(id(3), u))
		})
		same(t, "use", mustUse(t, s, id(1)), u)
	}
	same(t, "use of no key", mustUse(t, s, id(3)), access.Use{})
	same(t, "changes", seen.log, []string(nil))
	put(t, s, NewKey("acme", 3))
	same(t, "use before the key was made", mustUse(t, s, id(3)), access.Use{})
	_ = s.Close()
	s = open(t, dir)
	defer s.Close()
	same(t, "use", mustUse(t, s, id(1)), uses[3])
	update(t, s, func(tx store.Tx) error { return tx.DeleteTenant("acme") })
	put(t, s, NewTenant("acme"), NewKey("acme", 1))
	same(t, "use before the key was deleted", mustUse(t, s, id(1)), access.Use{})
	same(t, "use of another tenant's key", mustUse(t, s, id(2)), uses[3])
}

func mustUse(t *testing.T, s store.Store, id access.KeyID) (u access.Use) {
	t.Helper()
	view(t, s, func(r store.Reader) (err error) { u, err = r.Use(id); return err })
	return u
}

func testAudit(t *testing.T, open Opener) {
	dir := t.TempDir()
	s := open(t, dir)
	same(t, "no audit", auditOf(t, s, 0), []string(nil))
	update(t, s, func(tx store.Tx) error {
		for n := uint64(5); n < 300; n++ {
			if err := tx.PutAudit(n, fmt.Appendf(nil, "record %d", n)); err != nil {
				return err
			}
		}
		return nil
	})
	for _, n := range []uint64{0, 1, 299, 301} {
		if s.Update(context.Background(), func(tx store.Tx) error { return tx.PutAudit(n, []byte("x")) }) == nil {
			t.Fatalf("record %d was put behind 299", n)
		}
	}
	_ = s.Update(context.Background(), func(tx store.Tx) error { return errors.Join(tx.PutAudit(300, []byte("x")), errStop) })
	_ = s.Close()
	s = open(t, dir)
	defer s.Close()
	same(t, "records after 296", auditOf(t, s, 296), []string{"297 record 297", "298 record 298", "299 record 299"})
	same(t, "records after the last", auditOf(t, s, 299), []string(nil))
	same(t, "records after all", auditOf(t, s, 1<<64-1), []string(nil))
	same(t, "number of records", len(auditOf(t, s, 0)), 295)
	update(t, s, func(tx store.Tx) error { return tx.TrimAudit(298) })
	same(t, "records left", auditOf(t, s, 0), []string{"298 record 298", "299 record 299"})
	update(t, s, func(tx store.Tx) error { return tx.TrimAudit(0) })
	n := 0
	view(t, s, func(r store.Reader) error { return r.Audit(0, func(uint64, []byte) bool { n++; return false }) })
	same(t, "records before yield said no", n, 1)
	update(t, s, func(tx store.Tx) error { return errors.Join(tx.TrimAudit(1000), tx.PutAudit(42, nil)) })
	view(t, s, func(r store.Reader) error {
		seq, record, err := r.LastAudit()
		same(t, "last", []any{seq, len(record)}, []any{uint64(42), 0})
		return err
	})
}

// auditOf lists numbers and records.
func auditOf(t *testing.T, s store.Store, after uint64) (list []string) {
	t.Helper()
	view(t, s, func(r store.Reader) error {
		return r.Audit(after, func(seq uint64, record []byte) bool {
			list = append(list, fmt.Sprintf("%d %s", seq, record))
			return true
		})
	})
	return list
}

func testAnswers(t *testing.T, open Opener) {
	dir := t.TempDir()
	s := open(t, dir)
	id := func(n int) (id [32]byte) { id[n%32] = byte(n + 1); return id }
	update(t, s, func(tx store.Tx) error {
		var errs []error
		for n := range 100 {
			errs = append(errs, tx.PutAnswer(id(n), int64(100-n), fmt.Appendf(nil, "answer %d", n)))
		}
		return errors.Join(append(errs, tx.PutAnswer(id(3), 1000, []byte("again")), tx.PutAnswer(id(4), 1, nil))...)
	})
	if s.Update(context.Background(), func(tx store.Tx) error { return tx.PutAnswer(id(1), -1, nil) }) == nil {
		t.Fatal("an answer of before 1970 was kept")
	}
	_ = s.Close()
	s = open(t, dir)
	defer s.Close()
	answer := func(n int) (text string, expires int64) {
		view(t, s, func(r store.Reader) error {
			e, b, err := r.Answer(id(n))
			if errors.Is(err, store.ErrNotFound) {
				e, err = -1, nil
			}
			text, expires = string(b), e
			return err
		})
		return text, expires
	}
	wantAnswer := func(n int, text string, expires int64) {
		t.Helper()
		a, e := answer(n)
		same(t, fmt.Sprint("answer ", n), []any{a, e}, []any{text, expires})
	}
	wantAnswer(3, "again", 1000)
	wantAnswer(4, "", 1)
	wantAnswer(99, "answer 99", 1)
	wantAnswer(200, "", -1)
	trim := func(now int64, max, want int) {
		t.Helper()
		update(t, s, func(tx store.Tx) error {
			n, err := tx.TrimAnswers(now, max)
			same(t, "trimmed", n, want)
			return err
		})
	}
	trim(0, 10, 0)
	trim(1, 1, 1)
	trim(1, 10, 1)
	wantAnswer(99, "", -1)
	wantAnswer(4, "", -1)
	wantAnswer(98, "answer 98", 2)
	trim(100, 1000, 97)
	wantAnswer(0, "", -1)
	wantAnswer(3, "again", 1000)
}

// Nil and empty permissions of a tenant are two things.
func testTenantPermissions(t *testing.T, open Opener) {
	s := start(t, open)
	m := follow(t, s)
	for _, permissions := range [][]string{nil, {}, {"a"}, {"b", "a"}} {
		for _, v := range []*access.Tenant{NewTenant("acme"), withGrants(NewTenant("acme"))} {
			v.Permissions = permissions
			put(t, s, v)
			same(t, "tenant", mustTenant(t, s, "acme"), v)
			same(t, "followed tenant", m.tenants["acme"], *v)
		}
	}
}

// Overrides come and go; what was handed over is not what was put in.
func testOverrides(t *testing.T, open Opener) {
	dir := t.TempDir()
	s := open(t, dir)
	m := follow(t, s)
	tenant, key := withGrants(NewTenant("acme")), withSecrets(NewKey("acme", 1))
	put(t, s, tenant, key)
	tenant.Override.Until, tenant.Grants[0].Amount, key.Override.Until = 1, 2, 3
	check := func(wantTenant *access.Tenant, wantKey *access.Key) {
		t.Helper()
		same(t, "tenant", mustTenant(t, s, "acme"), wantTenant)
		same(t, "key", mustKey(t, s, key.ID), wantKey)
		same(t, "followed tenant", m.tenants["acme"], *wantTenant)
		same(t, "followed key", m.keys[key.ID], wantKey.KeyHead)
	}
	check(withGrants(NewTenant("acme")), withSecrets(NewKey("acme", 1)))
	mustTenant(t, s, "acme").Grants[1].Amount = 0 // the caller's own
	_ = s.Close()
	s = open(t, dir)
	defer s.Close()
	m = follow(t, s)
	check(withGrants(NewTenant("acme")), withSecrets(NewKey("acme", 1)))
	update(t, s, func(tx store.Tx) error {
		return errors.Join(tx.PutTenant(NewTenant("acme")), tx.UpdateKey(NewKey("acme", 1)))
	})
	check(NewTenant("acme"), NewKey("acme", 1))
}

// A store that is put back to an older state revokes what was buried since.
func testBury(t *testing.T, open Opener, restore Restorer) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, NewTenant("acme"), NewTenant("gone"), NewKey("gone", 9), withSecrets(NewKey("acme", 4)), withSecrets(NewKey("acme", 5)))
	for n := range 4 {
		put(t, s, NewKey("acme", n))
	}
	var backup bytes.Buffer
	if n, err := s.Backup(context.Background(), &backup); err != nil || n != int64(backup.Len()) {
		t.Fatal(n, err)
	}
	update(t, s, func(tx store.Tx) error {
		revoked, rotated := NewKey("acme", 1), NewKey("acme", 2)
		revoked.Status = access.StatusRevoked
		rotated.Digest[31] = 1
		both := withSecrets(NewKey("", 5))
		return errors.Join(tx.Bury(NewKey("", 1).Digest, NewKey("", 2).Digest, withSecrets(NewKey("", 4)).Previous.Digest),
			tx.Bury(both.Digest, both.Previous.Digest), tx.UpdateKey(revoked), tx.UpdateKey(rotated), tx.DeleteTenant("gone"))
	})
	wantBuried := func(known map[[32]byte]bool) {
		t.Helper()
		view(t, s, func(r store.Reader) error { return sameBuried(t, r, known) })
		update(t, s, func(tx store.Tx) error { return sameBuried(t, tx, known) })
	}
	known := map[[32]byte]bool{NewKey("", 0).Digest: false, NewKey("", 1).Digest: true, NewKey("", 3).Digest: false,
		withSecrets(NewKey("", 4)).Previous.Digest: true, {31: 9}: false}
	wantBuried(known)
	// What did not happen is not buried.
	_ = s.Update(context.Background(), func(tx store.Tx) error { return errors.Join(tx.Bury(NewKey("", 3).Digest), errStop) })
	wantBuried(known)
	update(t, s, func(tx store.Tx) error {
		err := tx.Bury([32]byte{31: 9})
		known[[32]byte{31: 9}] = true
		return errors.Join(err, sameBuried(t, tx, known)) // it knows of its own
	})
	wantBuried(known)
	same(t, "key rotated", mustKey(t, s, NewKey("", 2).ID).Status, access.StatusActive)
	_ = s.Close()
	restore(t, dir, backup.Bytes())
	s = open(t, dir)
	defer s.Close()
	wantBuried(known)
	m := follow(t, s)
	for n, dead := range map[int]bool{0: false, 1: true, 2: true, 3: false, 4: false, 5: true, 9: true} {
		k := mustKey(t, s, NewKey("", n).ID)
		same(t, fmt.Sprint("key ", n, " is revoked"), k.Status == access.StatusRevoked && !k.RevokedAt.IsZero() && k.Previous == nil, dead)
		same(t, "followed key", m.keys[k.ID], k.KeyHead)
	}
	loser := withSecrets(NewKey("acme", 4))
	loser.Previous = nil
	same(t, "key that lost its previous secret alone", mustKey(t, s, loser.ID), loser)
	same(t, "tenants", listTenants(t, s, ""), slices.Sorted(slices.Values([]string{"acme", "gone"})))
}

func sameBuried(t *testing.T, r store.Reader, known map[[32]byte]bool) error {
	t.Helper()
	for d, want := range known {
		got, err := r.Buried(d)
		if err != nil {
			return err
		}
		same(t, fmt.Sprintf("%x is buried", d), got, want)
	}
	return nil
}

func testBackupCancel(t *testing.T, open Opener) {
	s := start(t, open)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := s.Backup(ctx, new(bytes.Buffer))
	wantErr(t, "Backup", err, context.Canceled)
	_ = s.Close()
	_, err = s.Backup(context.Background(), new(bytes.Buffer))
	wantErr(t, "Backup", err, store.ErrClosed)
}
