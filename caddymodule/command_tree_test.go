package caddymodule

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// Every command says what it does and shows how, can print JSON if it prints a
// result, and keeps the shell from offering files where none are wanted.
func TestCommandTree(t *testing.T) {
	root := &cobra.Command{Use: "keytoll", Short: "Manages API keys and tenants"}
	keytollCommand(root)
	takesFiles := []string{"backup", "restore", "check", "export", "import", "conformance"}
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		path := cmd.CommandPath()
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") || cmd.Short[0] < 'A' || cmd.Short[0] > 'Z' {
			t.Errorf("%s: short text %q", path, cmd.Short)
		}
		for line := range strings.Lines(cmd.Example + "\n") {
			if !strings.HasPrefix(line, "  $ ") || !strings.Contains(line, "caddy "+path) && cmd.HasParent() {
				t.Errorf("%s: example %q", path, line)
			}
		}
		for _, text := range []string{cmd.Short, cmd.Long, cmd.Example} {
			if strings.Contains(text, "\t") {
				t.Errorf("%s: a tab in its texts", path)
			}
		}
		if !cmd.HasSubCommands() {
			if cmd.Flags().Lookup("json") == nil {
				t.Errorf("%s has no --json", path)
			}
			if (cmd.ValidArgsFunction == nil) != slices.Contains(takesFiles, cmd.Name()) {
				t.Errorf("%s completes its arguments to the wrong things", path)
			}
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(root)
}

// Caddy's own shell completion offers our commands, flags and values.
func TestCompletion(t *testing.T) {
	for _, c := range []struct {
		words []string
		want  []string
	}{
		{[]string{"keytoll", ""}, []string{"audit", "backup", "check", "compact", "conformance", "export", "import", "init", "keys", "provider-keys", "rekey", "restore", "status", "tenants"}},
		{[]string{"keytoll", "keys", ""}, []string{"create", "disable", "enable", "import", "inspect", "list", "revoke", "rotate", "show", "update"}},
		{[]string{"keytoll", "provider-keys", ""}, []string{"delete", "list", "set", "verify"}},
		{[]string{"keytoll", "keys", "list", "--status", ""}, keyStatuses},
		{[]string{"keytoll", "audit", "list", "--action", "key.r"}, []string{"key.rotated", "key.revoked"}},
		{[]string{"keytoll", "keys", "import", "--salt-position", ""}, []string{"prefix", "suffix"}},
		{[]string{"keytoll", "keys", "rotate", "--g"}, []string{"--grace"}},
	} {
		cmd := exec.Command(os.Args[0], append([]string{"__complete"}, c.words...)...)
		cmd.Env = append(os.Environ(), "KEYTOLL_TEST_COMMAND=1")
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(c.words, err)
		}
		var got []string
		for line := range strings.Lines(string(out)) {
			word, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
			if !strings.HasPrefix(word, ":") {
				got = append(got, word)
			}
		}
		if !slices.Equal(got, c.want) && !containsAll(got, c.want) {
			t.Errorf("%v completes to %v, want %v", c.words, got, c.want)
		}
	}
}

func containsAll(got, want []string) bool {
	for _, w := range want {
		if !slices.Contains(got, w) {
			return false
		}
	}
	return true
}
