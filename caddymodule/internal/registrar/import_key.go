package registrar

import (
	"crypto/sha256"
	"maps"
	"strings"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// minSecret is the shortest secret that is taken over, in characters.
const minSecret = 8

// key makes the key that in describes. The digests are all that its secret may
// be stored under; none if that is not known.
func (m *importing) key(in *ImportKey) (k *access.Key, digests [][32]byte, err error) {
	k = &access.Key{
		KeyHead: access.KeyHead{Status: access.StatusActive, Tenant: in.Tenant, Environment: in.Environment,
			Rights: access.NewRights(in.Permissions, in.Addresses)},
		Name: in.Name, Description: in.Description, Metadata: maps.Clone(in.Metadata), CreatedAt: m.r.now(),
	}
	if !in.Created.IsZero() {
		k.CreatedAt = in.Created.UTC().Truncate(time.Second)
	}
	if !in.Expires.IsZero() {
		k.Expires = in.Expires.Unix()
	}
	if in.Rate != nil {
		k.Rate = *in.Rate
	}
	switch {
	case in.Revoked:
		k.Status, k.RevokedAt = access.StatusRevoked, m.r.now()
	case in.Disabled:
		k.Status = access.StatusDisabled
	}
	if digests, err = m.secret(k, in); err != nil {
		return nil, nil, err
	}
	if k.ID, err = m.id(k, in); err != nil {
		return nil, nil, err
	}
	if k.Alg == token.AlgImported {
		k.Digest = m.r.o.Digester.Sum("imported:" + k.ID.String())
	}
	return k, digests, nil
}

// secret sets what k knows of its secret.
func (m *importing) secret(k *access.Key, in *ImportKey) ([][32]byte, error) {
	switch {
	case !in.Secret.IsZero():
		text := in.Secret.Reveal()
		if len(text) < minSecret || len(text) > token.MaxLen {
			return nil, invalid("key", "a key has %d to %d characters, not %d", minSecret, token.MaxLen, len(text))
		}
		if err := checked("key", checkWord(text, token.MaxLen)); err != nil {
			return nil, err
		}
		if m.set.Classify(text) == token.Garbage {
			return nil, invalid("key", "it has the form of keys made here but a wrong checksum: it would be refused before any lookup")
		}
		k.Digest, k.Alg, k.Prefix = m.r.o.Digester.Sum(text), token.AlgHMAC, m.display(in.Secret)
		return [][32]byte{k.Digest, sha256.Sum256([]byte(text))}, nil
	case in.SHA256 != nil:
		if len(in.SHA256) != sha256.Size {
			return nil, invalid("sha256", "a SHA-256 has %d bytes, not %d", sha256.Size, len(in.SHA256))
		}
		k.Digest, k.Alg, k.Prefix = [32]byte(in.SHA256), token.AlgSHA256, in.Hint
		return [][32]byte{k.Digest}, nil
	case in.Digest != nil:
		if len(in.Digest) != sha256.Size {
			return nil, invalid("digest", "a digest has %d bytes, not %d", sha256.Size, len(in.Digest))
		}
		k.Digest, k.Alg, k.Prefix = [32]byte(in.Digest), token.AlgHMAC, in.Prefix
		return [][32]byte{k.Digest}, nil
	}
	k.Alg, k.Prefix = token.AlgImported, in.Hint
	if k.Status != access.StatusRevoked {
		k.Imported = &access.Imported{Hint: in.Hint, Hash: in.Hash}
	}
	return nil, nil
}

// display returns what lists show of a secret: what stands before its last
// '_', if that is little, and up to six characters; never half of it.
func (m *importing) display(secret token.Secret) string {
	text := secret.Reveal()
	if m.set.Classify(text) == token.Minted {
		return m.set.Display(secret)
	}
	start := strings.LastIndexByte(text[:len(text)/3], '_') + 1
	return text[:start+min(6, (len(text)-start)/4)]
}

// id returns the id that in asks for, or one that is the same each time the
// tenant's key is imported.
func (m *importing) id(k *access.Key, in *ImportKey) (access.KeyID, error) {
	if in.ID != "" {
		id, err := access.ParseKeyID(in.ID)
		return id, checked("id", err)
	}
	what := string(k.Digest[:])
	if k.Alg == token.AlgImported {
		what = in.Hash
	}
	var id access.KeyID
	seed := drawn(m.r.o.Digester.Sum("\x00import id\x00" + k.Tenant + "\x00" + string(k.Alg) + what))
	_, err := token.AppendRandom(id[:0], len(id), &seed)
	return id, err
}

// drawn is an endless source of bytes that follow from a seed.
type drawn [32]byte

// Read implements io.Reader.
func (d *drawn) Read(p []byte) (int, error) {
	*d = sha256.Sum256(d[:])
	return copy(p, d[:]), nil
}
