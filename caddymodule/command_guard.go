package caddymodule

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// What a command sends becomes part of a URL or of a record, and URLs are in
// the server's log: a key that is given in the place of something else stops
// here.

// refuseSecrets refuses arguments and flags that hold a key as keytoll makes
// them.
func refuseSecrets(cmd *cobra.Command, args []string) error {
	where := ""
	for _, v := range args {
		if holdsKey(v) {
			where = "an argument"
		}
	}
	cmd.Flags().Visit(func(f *pflag.Flag) {
		values := []string{f.Value.String()}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			values = list.GetSlice()
		}
		for _, v := range values {
			if holdsKey(v) {
				where = "--" + f.Name
			}
		}
	})
	if where == "" {
		return nil
	}
	e := usage("%s is a key itself; it was sent nowhere, but other users of this machine and the shell's history may have it", where)
	e.hints = []string{"name a key by its id: caddy keytoll keys list",
		"or end it without its id, from standard input: caddy keytoll keys revoke --secret"}
	return e
}

// holdsKey reports whether a text, or what stands behind its last '=', is of
// the form of a key.
func holdsKey(text string) bool {
	text = text[strings.LastIndexByte(text, '=')+1:]
	return inspect(text, nil, false).Form == "minted"
}

// checkKeyID refuses what is no id of a key: it may be the secret of one.
func checkKeyID(id string) error {
	if _, err := access.ParseKeyID(id); err != nil {
		return &failure{message: err.Error(), hints: []string{"caddy keytoll keys list shows the ids",
			"by its secret a key can be revoked: caddy keytoll keys revoke --secret, from standard input"}}
	}
	return nil
}
