package importer

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"time"

	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

// wireKey is a key as Append writes it.
type wireKey struct {
	Line        int               `json:"line,omitempty"`
	ID          string            `json:"id,omitempty"`
	Key         string            `json:"key,omitempty"`
	SHA256      string            `json:"sha256,omitempty"`
	Hash        string            `json:"hash,omitempty"`
	Hint        string            `json:"hint,omitempty"`
	Tenant      string            `json:"tenant"`
	Name        string            `json:"name,omitempty"`
	Description string            `json:"description,omitempty"`
	Permissions []string          `json:"permissions,omitempty"`
	Addresses   []netip.Prefix    `json:"addresses,omitempty"`
	Rate        string            `json:"rate,omitempty"`
	Expires     *time.Time        `json:"expires_at,omitempty"`
	Created     *time.Time        `json:"created_at,omitempty"`
	LastUsed    *time.Time        `json:"last_used_at,omitempty"`
	Metadata    map[string]string `json:"metadata,omitempty"`
	Environment string            `json:"environment,omitempty"`
	Disabled    bool              `json:"disabled,omitempty"`
}

// Append appends a key as a line of NDJSON that Run reads back with Wire set, its
// secret in plain: it is for a connection to the server and for nothing else.
func Append(b []byte, k *registrar.ImportKey) []byte {
	w := wireKey{
		Line: k.Line, ID: k.ID, Key: k.Secret.Reveal(), SHA256: hex.EncodeToString(k.SHA256), Hash: k.Hash, Hint: k.Hint,
		Tenant: k.Tenant, Name: k.Name, Description: k.Description, Permissions: k.Permissions, Addresses: k.Addresses,
		Expires: wireTime(k.Expires), Created: wireTime(k.Created), LastUsed: wireTime(k.LastUsed),
		Metadata: k.Metadata, Environment: k.Environment, Disabled: k.Disabled,
	}
	if k.Rate != nil {
		w.Rate = k.Rate.String()
	}
	buf := bytes.NewBuffer(b)
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(&w) // texts, numbers and times of four-digit years: no error
	return buf.Bytes()
}

func wireTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return new(t.UTC())
}
