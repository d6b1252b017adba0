package registrar_test

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/audit"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// cutAudit takes the newest n audit records out of a database that is not open.
func cutAudit(t *testing.T, path string, n int) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		c := tx.Bucket([]byte("audit")).Cursor()
		for range n {
			if k, _ := c.Last(); k != nil {
				if err := c.Delete(); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

// A trail whose end was cut off is broken, and stays so when it goes on.
func TestAuditCutOff(t *testing.T) {
	for cut, whole := range map[int]bool{0: true, 1: false, 3: false, 5: false} {
		path := filepath.Join(t.TempDir(), "keytoll.db")
		k := openKit(t, path)
		for i := range 5 {
			k.tenant(t, fmt.Sprint("t", i))
		}
		if err := k.store.Close(); err != nil {
			t.Fatal(err)
		}
		cutAudit(t, path, cut)
		k = openKit(t, path)
		for more := range 3 {
			n, err := k.VerifyAudit(t.Context())
			if whole && (err != nil || n != uint64(5+more)) || !whole && !errors.Is(err, audit.ErrBroken) {
				t.Errorf("%d cut off, %d added: %d, %v", cut, more, n, err)
			}
			k.tenant(t, fmt.Sprint("more", more))
		}
		err := k.store.View(t.Context(), func(rd store.Reader) error {
			seq, _, err := rd.LastAudit()
			if seq != 8 {
				t.Errorf("%d cut off: the newest has number %d", cut, seq)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestRecordReplay(t *testing.T) {
	k := newKit(t)
	if err := errors.Join(k.RecordReplay(t.Context(), 0), k.RecordReplay(t.Context(), 3)); err != nil {
		t.Fatal(err)
	}
	page, _, err := k.Audit(t.Context(), registrar.AuditFilter{}, 0, 0)
	if err != nil || len(page) != 1 || page[0].Action != "keys.replayed" || page[0].Actor.Kind != access.ActorSystem || string(page[0].After) != `{"revoked":3}` {
		t.Errorf("%+v, %v", page, err)
	}
}

// More records than one transaction trims go in several.
func TestTrimMany(t *testing.T) {
	k := newKit(t)
	k.policy.AuditRetain = 10 * day
	const old = 25_000
	chain := audit.NewChain(k.digester.Sum("\x00audit chain"))
	err := k.store.Update(t.Context(), func(tx store.Tx) error {
		var seq uint64
		var record []byte
		for range old {
			var err error
			e := access.AuditEntry{At: start.Truncate(time.Second), Action: "key.updated", Object: "key"}
			if seq, record, err = chain.Record(seq, record, &e); err != nil {
				return err
			}
			if err := tx.PutAudit(seq, record); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	k.sweep(t, 20*day)
	n, err := k.VerifyAudit(t.Context())
	if err != nil || n == 0 || n > 10 {
		t.Errorf("%d entries left, %v", n, err)
	}
	page, _, err := k.Audit(t.Context(), registrar.AuditFilter{}, 0, 0)
	if err != nil || page[0].Seq != old+1 || page[0].Action != "audit.trimmed" {
		t.Errorf("left %+v, %v", page, err)
	}
}

// buried returns the digests that the database at path, which is not open,
// keeps of those that must never let a request in again.
func buried(t *testing.T, path string) map[[32]byte]bool {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	all := map[[32]byte]bool{}
	err = db.View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("buried")).ForEach(func(k, v []byte) error {
			if len(v) < 32 || binary.BigEndian.Uint64(k) == 0 {
				return errors.New("not an entry")
			}
			all[[32]byte(v)] = true
			return nil
		})
	})
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return all
}

func shaOf(s token.Secret) [32]byte { return sha256.Sum256([]byte(s.Reveal())) }

// The end of a grace buries the old secret; an adoption buries nothing.
func TestWhatIsBuried(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keytoll.db")
	k := openKit(t, path)
	k.tenant(t, "acme")
	first := k.issue(t, registrar.CreateKeyRequest{Tenant: "acme"})
	second := k.rotate(t, first.Key.ID, time.Hour)
	secret := token.Wrap("sk_other_0123456789abcdef")
	sum := shaOf(secret)
	out, err := k.Import(t.Context(), []registrar.ImportKey{{Tenant: "acme", SHA256: sum[:]}}, registrar.ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Adopt(t.Context(), out[0].ID, token.AlgSHA256, sum, secret); err != nil {
		t.Fatal(err)
	}
	k.sweep(t, time.Hour)
	if err := k.store.Close(); err != nil {
		t.Fatal(err)
	}
	for digest, want := range map[[32]byte]bool{first.Key.Digest: true, second.Key.Digest: false, sum: false, k.digester.Sum(secret.Reveal()): false} {
		if got := buried(t, path)[digest]; got != want {
			t.Errorf("digest %x buried: %v, want %v", digest[:4], got, want)
		}
	}
}
