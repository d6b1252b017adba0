package boltstore

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"errors"

	bolt "go.etcd.io/bbolt"

	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// The digests of keys and the tags of records are made with keys that derive
// from the master key a database was made with, its root, and cannot be made
// anew without the secrets. So a master key is replaced by sealing the root
// under the new one. While there is no such list, the root itself is the master
// key.

var metaRoots = []byte("roots")

// maxMasters is how many master keys may open a database.
const maxMasters = 8

const (
	rootName   = 16                    // of a master key, as token.Master.Name gives it
	rootSealed = 12 + 44 + 16          // nonce, the root in base64, GCM's tag
	rootLen    = rootName + rootSealed // of one entry
)

// roots is the list of the master keys that open a database: the name of each
// and the root sealed under it. An empty list is that of the root alone.
type roots []byte

// rootBox returns what seals the root under m. Its nonces are random.
func rootBox(m token.Master) cipher.AEAD {
	key := m.Derive("root wrap")
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // only for keys of another length
	}
	box, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // only for blocks of another size
	}
	return box
}

// rootAAD binds a sealed root to its purpose and to the master key that it is
// listed under.
func rootAAD(name string) []byte { return []byte("keytoll database root v1 " + name) }

// sealRoots returns the list for masters.
func sealRoots(root token.Master, masters []token.Master) (r roots) {
	for _, m := range masters {
		r = append(r, m.Name()...)
		r = rootBox(m).Seal(r, nil, []byte(root.Text()), rootAAD(m.Name()))
	}
	return r
}

// open returns the root that is sealed under m. listed says that there is one;
// it is not m's if err is not nil.
func (r roots) open(m token.Master) (root token.Master, listed bool, err error) {
	name := m.Name()
	for ; len(r) >= rootLen; r = r[rootLen:] {
		if string(r[:rootName]) != name {
			continue
		}
		text, err := rootBox(m).Open(nil, nil, r[rootName:rootLen], rootAAD(name))
		if err == nil {
			root, err = token.ParseMaster(string(text))
		}
		return root, true, err
	}
	return root, false, nil
}

// unlock finds the root of the database with the master keys that the store
// was opened with, and sets what derives from it.
func (s *Store) unlock(meta *bolt.Bucket) error {
	value := bytes.Clone(meta.Get(metaRoots))
	if len(value) != 0 && (len(value) < rootLen+tagLen || (len(value)-tagLen)%rootLen != 0) {
		return damaged(s.path, "the list of its master keys is of no length that it can have")
	}
	list := roots(value[:max(0, len(value)-tagLen)])
	want, isRoot := meta.Get(metaCheck), false
	for _, m := range s.masters {
		root := m
		if len(list) > 0 {
			sealed, listed, err := list.open(m)
			if err != nil {
				return damaged(s.path, "what its master key seals does not open")
			}
			if !listed {
				isRoot = isRoot || hmac.Equal(want, checkValue(m))
				continue
			}
			root = sealed
		}
		if hmac.Equal(want, checkValue(root)) {
			return s.setRoot(root, list, value)
		}
		if len(list) > 0 {
			return damaged(s.path, "its master key seals the root of another database")
		}
	}
	return s.noMaster(len(list) > 0, isRoot)
}

// setRoot sets what derives from the root of the database. list is value, as it
// is stored, without its tag.
func (s *Store) setRoot(root token.Master, list roots, value []byte) error {
	key := root.Derive(tagPurpose)
	if len(list) > 0 {
		if _, ok := newTagger(key).open(bucketMeta, metaRoots, value); !ok {
			return damaged(s.path, "the list of its master keys fails its tag")
		}
	}
	s.master, s.masters = root, nil
	s.roots.Store(&list)
	s.taggers.New = func() any { return newTagger(key) }
	return nil
}

// noMaster says why no master key opens the database. replaced: it is under
// other ones than the first. isRoot: the first was tried.
func (s *Store) noMaster(replaced, isRoot bool) error {
	switch {
	case isRoot:
		return fail(store.ErrMasterKey, "the master key that database %s was made with was replaced and no longer opens it: set master_key to the new one", s.path)
	case replaced:
		return fail(store.ErrMasterKey, "the master key does not open database %s, whose master key was replaced: set master_key to the one that it was replaced with", s.path)
	}
	return fail(store.ErrMasterKey, "the master key is not the one database %s was made with: set master_key to that one or put its file back; to replace it, set previous_master_key to that one", s.path)
}

// Opens reports whether m is one of the master keys that open the database as
// it is now. It reads nothing from the disk.
func (s *Store) Opens(m token.Master) bool {
	list := *s.roots.Load()
	if len(list) == 0 {
		return m.Equal(s.master)
	}
	root, listed, err := list.open(m)
	return listed && err == nil && root.Equal(s.master)
}

// SetMasters has the master keys, one to eight of them, and no others open the
// database from now on; that is durable when it returns nil. The root is one of
// the others unless it is named.
//
// The root stays what Master returns. Whoever has a root that was replaced, and
// the file, can therefore still compute the digest of a secret and the tag of a
// record, and open the answers that are kept for callers who ask again: the new
// keys of the last minutes. Digests tell no secret of 190 random bits; a copy
// that can be written to is another matter, as it always is for who has the
// root. What other master keys wrap is not open to it. Copies that were made
// before open with the keys of their time, and pages of this file that are no
// longer in use hold what they held until they are written to: Compact leaves
// them out.
func (s *Store) SetMasters(ctx context.Context, masters ...token.Master) error {
	if len(masters) == 0 || len(masters) > maxMasters {
		return errors.New("a database has one to eight master keys")
	}
	return s.Update(ctx, func(v store.Tx) error {
		t := v.(*tx)
		if len(masters) == 1 && masters[0].Equal(s.master) {
			t.roots = new(roots)
			return t.delete(bucketMeta, metaRoots)
		}
		list := sealRoots(s.master, masters)
		t.roots = &list
		return t.put(bucketMeta, metaRoots, bytes.Clone(list))
	})
}
