package caddymodule

import (
	"bytes"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
)

func providerKeysCommand() *cobra.Command {
	return group(&cobra.Command{Use: "provider-keys", Short: "Manages the keys that tenants have with providers",
		Example: "  $ caddy keytoll provider-keys list acme\n  $ caddy keytoll provider-keys set acme elevenlabs < key.txt"},
		providerListCommand(), providerSetCommand(), providerVerifyCommand(), providerDeleteCommand())
}

func providerListCommand() *cobra.Command {
	return complete(remote(leaf("list <tenant> [--json]", "Lists the provider keys of a tenant, without the keys themselves",
		"  $ caddy keytoll provider-keys list acme\n  $ caddy keytoll provider-keys list acme --json", 1, func(s *session, args []string) error {
			c, err := s.client()
			if err != nil {
				return err
			}
			list, err := c.ProviderKeys(args[0])
			if err != nil {
				return err
			}
			out := newSheet(s, "provider_keys", "PROVIDER\tENDS WITH\tCREATED\tLAST USED\tLAST VERIFIED\tVALID")
			for _, k := range list.ProviderKeys {
				if err := out.add(k, func() []string { return providerRow(k) }); err != nil {
					return err
				}
			}
			return out.end("")
		})), nil)
}

func providerRow(k mgmt.ProviderKey) []string {
	return []string{k.Provider, dash(k.LastFour), stamp(&k.CreatedAt), stamp(k.LastUsedAt), stamp(k.LastVerifiedAt), validText(k.Valid)}
}

func validText(valid *bool) string {
	switch {
	case valid == nil:
		return "-"
	case *valid:
		return "yes"
	}
	return "no"
}

func providerSetCommand() *cobra.Command {
	cmd := remote(leaf("set <tenant> <provider> [--json]", "Stores a tenant's key for a provider, in place of one that is there",
		`  $ caddy keytoll provider-keys set acme elevenlabs < key.txt
  $ printf '%s\n' "$KEY" | caddy keytoll provider-keys set acme openai`, 2, setProviderKey))
	cmd.Long = `Stores a tenant's own key for a provider of the configuration, in place of one that
is there. Requests of the tenant for that provider use it from then on.

The key itself is read from standard input; never give it as an argument. It is
kept sealed, and is shown nowhere again.`
	return complete(cmd, nil)
}

func setProviderKey(s *session, args []string) error {
	if err := access.CheckProvider(args[1]); err != nil { // it may be the key itself: it stops here and is not shown
		return &failure{code: exitUsage, message: "the second argument is no name of a provider; it was sent nowhere",
			hints: []string{s.cmd.CommandPath() + " <tenant> <provider> < key.txt"}}
	}
	key, err := s.providerKey()
	if err != nil {
		return err
	}
	c, err := s.client()
	if err != nil {
		return err
	}
	k, err := c.StoreProviderKey(args[0], args[1], mgmt.StoreProviderKey{APIKey: key})
	if err != nil {
		return err
	}
	note(s.err, "the key of tenant %s for %s is stored", args[0], k.Provider)
	if s.json() {
		return s.printJSON(k)
	}
	return s.printRows(row{"provider", k.Provider}, row{"tenant", args[0]}, row{"ends with", k.LastFour}, row{"created", stamp(&k.CreatedAt)})
}

// providerKey reads the one line of standard input. No error shows any of it.
func (s *session) providerKey() (string, error) {
	text, err := io.ReadAll(io.LimitReader(s.cmd.InOrStdin(), 2*access.MaxProviderKey))
	if err != nil {
		return "", fmt.Errorf("reading standard input: %w", err)
	}
	text = bytes.TrimSpace(text)
	switch {
	case len(text) == 0:
		return "", &failure{code: exitUsage, message: "there is no key on standard input",
			hints: []string{`printf '%s\n' "$KEY" | ` + s.cmd.CommandPath() + " <tenant> <provider>"}}
	case len(text) > access.MaxProviderKey:
		return "", usage("what is on standard input is longer than %d bytes", access.MaxProviderKey)
	case bytes.ContainsAny(text, "\r\n"):
		return "", usage("there is more than one line on standard input: give one key alone")
	}
	return string(text), nil
}

func providerVerifyCommand() *cobra.Command {
	cmd := remote(leaf("verify <tenant> <provider> [--json]", "Asks a provider whether the key that a tenant has stored is good",
		"  $ caddy keytoll provider-keys verify acme elevenlabs\n  $ caddy keytoll provider-keys verify acme openai --json", 2, verifyProviderKey))
	cmd.Long = `Asks a provider whether the key that a tenant has stored is good, and notes the
answer. The exit code is 1 if it is not, and if the provider gave no answer to
conclude from, which changes nothing.`
	return complete(cmd, nil)
}

func verifyProviderKey(s *session, args []string) error {
	c, err := s.client()
	if err != nil {
		return err
	}
	v, err := c.VerifyProviderKey(args[0], args[1])
	if err != nil {
		return err
	}
	if s.json() {
		err = s.printJSON(v)
	} else {
		err = s.printRows(row{"provider", v.Provider}, row{"valid", validText(&v.Valid)}, row{"reason", v.Reason})
	}
	if err != nil || v.Valid {
		return err
	}
	return &failure{message: fmt.Sprintf("%s does not take the key of tenant %s: %s", v.Provider, args[0], v.Reason),
		hints: []string{"store another: caddy keytoll provider-keys set " + args[0] + " " + v.Provider + " < key.txt"}}
}

func providerDeleteCommand() *cobra.Command {
	return complete(remote(leaf("delete <tenant> <provider> [--json]", "Deletes the key that a tenant has stored for a provider",
		"  $ caddy keytoll provider-keys delete acme elevenlabs", 2, func(s *session, args []string) error {
			c, err := s.client()
			if err != nil {
				return err
			}
			if err := c.DeleteProviderKey(args[0], args[1]); err != nil {
				return err
			}
			note(s.err, "the key of tenant %s for %s is deleted", args[0], args[1])
			if s.json() {
				return s.printJSON(map[string]any{"tenant": args[0], "provider": args[1], "deleted": true})
			}
			return nil
		})), nil)
}
