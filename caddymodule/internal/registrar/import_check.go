package registrar

import (
	"errors"
	"fmt"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// check checks what is wrong whatever is stored.
func (in *ImportKey) check() error {
	forms := 0
	for _, set := range []bool{!in.Secret.IsZero(), in.SHA256 != nil, in.Hash != "", in.Digest != nil} {
		if set {
			forms++
		}
	}
	if forms != 1 {
		return invalid("key", "want the key, its SHA-256 or its hash: exactly one of them")
	}
	if in.Tenant == "" {
		return invalid("tenant", "a key needs a tenant")
	}
	var rate, expires error
	if in.Rate != nil {
		rate = checked("rate", in.Rate.Validate())
	}
	if !in.Expires.IsZero() && (in.Expires.Unix() <= 0 || !in.Expires.Before(maxExpiry)) {
		expires = invalid("expires_at", "the expiry %s is before 1970 or after 9999", in.Expires.UTC().Format(time.RFC3339))
	}
	return first(
		checked("tenant", access.CheckTenantID(in.Tenant)),
		checked("name", access.CheckName(in.Name)),
		checked("description", access.CheckDescription(in.Description)),
		checked("environment", checkWord(in.Environment, 64)),
		checked("hint", checkWord(in.Hint, 64)),
		checked("hash", checkWord(in.Hash, 512)),
		checked("prefix", checkWord(in.Prefix, 64)),
		checked("permissions", checkNames(in.Permissions)),
		checked("addresses", checkNetworks(in.Addresses)),
		checked("metadata", access.CheckMetadata(in.Metadata)),
		rate, expires,
	)
}

// checkWord does not quote what it refuses, which may be of a secret.
func checkWord(s string, limit int) error {
	if len(s) > limit {
		return fmt.Errorf("it is %d characters long, at most %d are allowed", len(s), limit)
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f {
			return errors.New("it holds a character that is not visible ASCII")
		}
	}
	return nil
}
