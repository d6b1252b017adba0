package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/store/boltstore"
	"github.com/keytoll/keytoll/caddymodule/token"
)

const (
	keyPrefix     = "kt_"
	environment   = "live"
	planName      = "bench"
	keysPerTenant = 100
	perCommit     = 10_000 // keys of one transaction
	databaseName  = "keytoll.db"
)

// newMaster returns a fresh master key.
func newMaster() (token.Master, error) {
	var raw [token.MasterLen]byte
	_, _ = rand.Read(raw[:]) // never fails
	return token.ParseMaster(base64.StdEncoding.EncodeToString(raw[:]))
}

// mintAll returns n new keys.
func mintAll(n int) (*keyring, error) {
	k := new(keyring)
	for range n {
		s, err := token.Mint(keyPrefix, rand.Reader)
		if err != nil {
			return nil, err
		}
		k.width = len(s.Reveal())
		k.texts = append(k.texts, s.Reveal()...)
	}
	return k, nil
}

// seed makes a database in dir that holds the keys, those of a hundred in a row
// of one tenant.
func seed(ctx context.Context, dir string, master token.Master, keys *keyring) error {
	b, err := boltstore.New(boltstore.Options{Path: filepath.Join(dir, databaseName), Master: &master})
	if err != nil {
		return err
	}
	s, err := b.Open(ctx)
	if err != nil {
		return err
	}
	err = fill(ctx, s, token.NewDigester(master), keys)
	return errors.Join(err, s.Close())
}

func fill(ctx context.Context, s store.Store, digester *token.Digester, keys *keyring) error {
	ids, err := sortedIDs(keys.len())
	if err != nil {
		return err
	}
	for from := 0; from < len(ids); from += perCommit {
		to := min(from+perCommit, len(ids))
		err := s.Update(ctx, func(tx store.Tx) error {
			for i := from; i < to; i++ {
				if err := putKey(tx, i, ids[i], string(keys.at(i)), digester); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("writing keys: %w", err)
		}
	}
	return nil
}

// sortedIDs returns n new ids in order: a B+tree that is filled in order is
// written once.
func sortedIDs(n int) ([]access.KeyID, error) {
	ids := make([]access.KeyID, n)
	var buf []byte
	for i := range ids {
		b, err := token.AppendRandom(buf[:0], len(ids[i]), rand.Reader)
		if err != nil {
			return nil, err
		}
		copy(ids[i][:], b)
		buf = b
	}
	slices.SortFunc(ids, func(a, b access.KeyID) int { return slices.Compare(a[:], b[:]) })
	return ids, nil
}

func putKey(tx store.Tx, i int, id access.KeyID, text string, digester *token.Digester) error {
	now := time.Now()
	tenant := fmt.Sprintf("tenant-%06d", i/keysPerTenant)
	if i%keysPerTenant == 0 {
		err := tx.PutTenant(&access.Tenant{
			ID: tenant, Name: "Tenant " + tenant[7:], Plan: planName, Status: access.StatusActive, CreatedAt: now,
		})
		if err != nil {
			return err
		}
	}
	return tx.CreateKey(&access.Key{
		KeyHead: access.KeyHead{
			ID: id, Digest: digester.Sum(text), Alg: token.AlgHMAC, Status: access.StatusActive,
			Tenant: tenant, Environment: environment,
		},
		Name: "bench", Prefix: text[:len(keyPrefix)+6], CreatedAt: now,
	})
}

// copyStore copies the files of a closed database: only one process may have it
// open.
func copyStore(from, to string) error {
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	files, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := copyFile(filepath.Join(from, f.Name()), filepath.Join(to, f.Name())); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
