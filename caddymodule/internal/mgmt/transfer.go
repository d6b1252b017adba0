package mgmt

import (
	"encoding/hex"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// exportVersion is the version of the export file that is written and read.
const exportVersion = 1

// The types of lines of an export.
const (
	lineTenant = "tenant"
	lineKey    = "key"
	lineEnd    = "end"
)

// Line is a line of an export or an import: one JSON object. The first line of
// an export is its header, with Export and Installation alone. Lines of type
// tenant come before those of type key; a line without a type is a key. The
// line of type end is the last: without it the file was cut off.
type Line struct {
	Export       int    `json:"keytoll_export,omitempty"` // version of the file
	Installation string `json:"installation,omitempty"`   // whose digests the file holds

	Type string `json:"type,omitempty"`

	ID          string            `json:"id,omitempty"` // of the tenant or the key; a key without one gets a new one
	Tenant      string            `json:"tenant,omitempty"`
	Name        string            `json:"name,omitempty"`
	Description string            `json:"description,omitempty"`
	Plan        string            `json:"plan,omitempty"`   // of a tenant
	Status      string            `json:"status,omitempty"` // active if left out
	Permissions []string          `json:"permissions,omitzero"`
	Metadata    map[string]string `json:"metadata,omitempty"`

	// What the secret of a key is known by, one of: the secret itself; its plain
	// SHA-256 in hex; a salted or slow hash; or Digest, as this installation keeps
	// it.
	Key    string `json:"key,omitempty"`
	SHA256 string `json:"sha256,omitempty"`
	Hash   string `json:"hash,omitempty"`
	Digest string `json:"digest,omitempty"` // hex
	Alg    uint8  `json:"alg,omitempty"`    // token.Alg… of Digest
	Hint   string `json:"hint,omitempty"`   // what the secret starts with

	Prefix      string     `json:"prefix,omitempty"` // the first characters of the secret, for lists
	Environment string     `json:"environment,omitempty"`
	Addresses   []string   `json:"addresses,omitempty"`
	Rate        *Rate      `json:"rate,omitempty"`
	ExpiresAt   *time.Time `json:"expires_at,omitempty"`
	CreatedAt   *time.Time `json:"created_at,omitempty"`
	RotatedAt   *time.Time `json:"rotated_at,omitempty"`
	RevokedAt   *time.Time `json:"revoked_at,omitempty"`
	LastUsedAt  *time.Time `json:"last_used_at,omitempty"`

	Tenants int `json:"tenants,omitempty"` // at the end: how many there were
	Keys    int `json:"keys,omitempty"`    // likewise
}

// ImportReport is the answer to POST import.
type ImportReport struct {
	Created int           `json:"created"` // keys
	Skipped int           `json:"skipped"` // keys that were there already
	Errors  []ImportError `json:"errors"`  // one for each line that was refused
	// SkippedLines are the lines of the skipped keys.
	SkippedLines []int `json:"skipped_lines"`
}

// ImportError is why a line of an import was refused.
type ImportError struct {
	Line    int    `json:"line"` // of the body, 1 and up
	Field   string `json:"field,omitempty"`
	Message string `json:"message"`
}

func tenantLine(t *access.Tenant) Line {
	return Line{Type: lineTenant, ID: t.ID, Name: t.Name, Plan: t.Plan, Status: t.Status.String(),
		Permissions: t.Permissions, Metadata: t.Metadata, CreatedAt: present(t.CreatedAt)}
}

func keyLine(k *access.Key, use access.Use) Line {
	shown := ShowKey(k)
	l := Line{Type: lineKey, ID: shown.ID, Tenant: k.Tenant, Name: k.Name, Description: k.Description, Status: shown.Status,
		Permissions: k.Permissions(), Metadata: k.Metadata, Prefix: k.Prefix, Environment: k.Environment,
		Addresses: shown.Addresses, Rate: shown.Rate, ExpiresAt: shown.ExpiresAt, CreatedAt: present(k.CreatedAt),
		RotatedAt: shown.RotatedAt, RevokedAt: shown.RevokedAt, LastUsedAt: unix(use.At)}
	if k.Imported != nil {
		l.Hint, l.Hash = k.Imported.Hint, k.Imported.Hash
		return l
	}
	l.Digest, l.Alg = hex.EncodeToString(k.Digest[:]), k.Alg
	return l
}

// importLine is the line of a key of another product.
func importLine(k *registrar.ImportKey) Line {
	l := Line{ID: k.ID, Tenant: k.Tenant, Name: k.Name, Description: k.Description, Permissions: k.Permissions,
		Metadata: k.Metadata, Key: k.Secret.Reveal(), SHA256: hex.EncodeToString(k.SHA256), Hash: k.Hash, Hint: k.Hint,
		Environment: k.Environment, Prefix: k.Prefix, ExpiresAt: present(k.Expires), CreatedAt: present(k.Created), LastUsedAt: present(k.LastUsed)}
	for _, a := range k.Addresses {
		l.Addresses = append(l.Addresses, a.String())
	}
	if k.Rate != nil {
		l.Rate = ShowRate(*k.Rate)
	}
	if len(k.Digest) > 0 {
		l.Digest, l.Alg = hex.EncodeToString(k.Digest), token.AlgHMAC
	}
	if k.Disabled {
		l.Status = access.StatusDisabled.String()
	}
	if k.Revoked {
		l.Status = access.StatusRevoked.String()
	}
	return l
}

// importKey reads the line of a key.
func (l *Line) importKey(at int) (k registrar.ImportKey, err error) {
	k = registrar.ImportKey{Line: at, ID: l.ID, Tenant: l.Tenant, Name: l.Name, Description: l.Description,
		Permissions: l.Permissions, Metadata: l.Metadata, Secret: token.Wrap(l.Key), Hash: l.Hash, Hint: l.Hint,
		Environment: l.Environment, Prefix: l.Prefix}
	if k.SHA256, err = digest("sha256", l.SHA256); err != nil {
		return k, err
	}
	if k.Addresses, err = parseAddresses(l.Addresses); err != nil {
		return k, err
	}
	if k.Rate, err = l.Rate.parse(); err != nil {
		return k, badRequest("rate.window", "%s", err)
	}
	for to, from := range map[*time.Time]*time.Time{&k.Expires: l.ExpiresAt, &k.Created: l.CreatedAt, &k.LastUsed: l.LastUsedAt} {
		if from != nil {
			*to = *from
		}
	}
	switch l.Status {
	case "", "active":
	case "disabled":
		k.Disabled = true
	case "revoked":
		k.Revoked = true
	default:
		return k, badRequest("status", "status %q: want active, disabled or revoked", clip(l.Status))
	}
	return k, nil
}

// digest reads 32 bytes in hex; empty is nil.
func digest(field, s string) ([]byte, error) {
	if s == "" {
		return nil, nil
	}
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 32 {
		return nil, badRequest(field, "%s: want 64 hexadecimal digits", field)
	}
	return b, nil
}
