package registrar_test

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/token"
)

func (k *kit) importOne(t *testing.T, in registrar.ImportKey) registrar.ImportResult {
	t.Helper()
	out, err := k.Import(t.Context(), []registrar.ImportKey{in}, registrar.ImportOptions{CreateTenants: true})
	if err != nil {
		t.Fatal(err)
	}
	return out[0]
}

// forms are the ways a secret comes in.
func (k *kit) forms(secret token.Secret) map[string]registrar.ImportKey {
	sum, digest := shaOf(secret), k.digester.Sum(secret.Reveal())
	return map[string]registrar.ImportKey{
		"plain":  {Tenant: "acme", Secret: secret},
		"sha256": {Tenant: "acme", SHA256: sum[:]},
		"digest": {Tenant: "acme", Digest: digest[:]},
	}
}

// No form of a secret brings it back after it died, as far as that can be
// known; a key that is revoked already comes in.
func TestImportBringsNothingBack(t *testing.T) {
	kills := map[string]func(k *kit, id access.KeyID) error{
		"rotated": func(k *kit, id access.KeyID) error {
			_, err := k.RotateKey(t.Context(), id, registrar.RotateRequest{Grace: new(time.Duration)})
			return err
		},
		"in grace": func(k *kit, id access.KeyID) error {
			_, err := k.RotateKey(t.Context(), id, registrar.RotateRequest{Grace: new(time.Hour)})
			return err
		},
		"revoked":        func(k *kit, id access.KeyID) error { _, err := k.RevokeKey(t.Context(), id); return err },
		"tenant deleted": func(k *kit, _ access.KeyID) error { return k.DeleteTenant(t.Context(), "acme") },
		"rotated, tenant deleted": func(k *kit, id access.KeyID) error {
			_, err := k.RotateKey(t.Context(), id, registrar.RotateRequest{Grace: new(time.Duration)})
			return errors.Join(err, k.DeleteTenant(t.Context(), "acme"))
		},
	}
	unknown := map[[2]string]bool{{"minted", "sha256"}: true, {"digest", "sha256"}: true, {"sha256", "digest"}: true}
	for _, from := range []string{"minted", "plain", "sha256", "adopted", "digest"} {
		for how, kill := range kills {
			for _, to := range []string{"plain", "sha256", "digest"} {
				path := filepath.Join(t.TempDir(), "keytoll.db")
				k := openKit(t, path)
				k.tenant(t, "acme")
				secret := token.Wrap("old_secret_of_another_product")
				var id access.KeyID
				switch from {
				case "minted":
					made := k.issue(t, registrar.CreateKeyRequest{Tenant: "acme"})
					id, secret = made.Key.ID, made.Secret
				case "adopted":
					id = k.importOne(t, k.forms(secret)["sha256"]).ID
					if err := k.Adopt(t.Context(), id, token.AlgSHA256, shaOf(secret), secret); err != nil {
						t.Fatal(err)
					}
				default:
					id = k.importOne(t, k.forms(secret)[from]).ID
				}
				if err := kill(k, id); err != nil {
					t.Fatal(err)
				}
				if err := k.store.Close(); err != nil {
					t.Fatal(err)
				}
				k = openKit(t, path)
				in := k.forms(secret)[to]
				out := k.importOne(t, in)
				refused := out.Err != nil && out.Err.Code == registrar.Conflict && out.Err.Message == "this secret was revoked or rotated away here"
				if lets := !out.Skipped && !refused; lets != unknown[[2]string{from, to}] {
					t.Errorf("%s, %s, %s again: %+v", from, how, to, out)
				}
				if refused {
					in.Revoked = true
					if out := k.importOne(t, in); out.Err != nil || out.Skipped {
						t.Errorf("%s, %s, %s again and revoked: %+v", from, how, to, out)
					}
				}
			}
		}
	}
}

// Neither does the hash of a secret that died, nor its key's own id.
func TestImportBringsNoHashBack(t *testing.T) {
	k := newKit(t)
	k.tenant(t, "acme")
	in := registrar.ImportKey{Tenant: "acme", Hint: "x_", Hash: "$2b$10$abc"}
	first := k.importOne(t, in)
	if _, err := k.RevokeKey(t.Context(), first.ID); err != nil {
		t.Fatal(err)
	}
	if out := k.importOne(t, in); !out.Skipped {
		t.Errorf("%+v", out)
	}
	if err := k.DeleteTenant(t.Context(), "acme"); err != nil {
		t.Fatal(err)
	}
	if out := k.importOne(t, in); out.Err == nil || out.Err.Code != registrar.Conflict {
		t.Errorf("%+v", out)
	}
}
