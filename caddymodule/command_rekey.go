package caddymodule

import (
	"github.com/spf13/cobra"

	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
)

func rekeyCommand() *cobra.Command {
	cmd := remote(leaf("rekey [--json]", "Seals all provider keys anew under the first master key",
		"  $ caddy keytoll rekey\n  $ caddy keytoll rekey --json", 0, rekey))
	cmd.Long = `Seals all provider keys anew: each tenant gets a new data key under the first
master key of the configuration. It is the second step of replacing a master key:

  1. configure the new master key, with the one before as the previous one
  2. run this command until it says that nothing is left
  3. take the previous one out of the configuration
  4. when the server stops the next time, run 'caddy keytoll compact': what the
     previous key opened stays in free pages of the database until then

The server goes on serving meanwhile. A run that is interrupted loses nothing:
the next goes on where it ended. The exit code is 1 while anything is left.`
	return complete(cmd, nil)
}

// rekey calls the server, which does a part at a time, until all is done.
func rekey(s *session, _ []string) error {
	c, err := s.client()
	if err != nil {
		return err
	}
	var sum mgmt.RekeyReport
	for {
		r, err := c.Rekey()
		if err != nil {
			if sum.Tenants > 0 {
				note(s.err, "tenants done before it failed: %d", sum.Tenants)
			}
			return err
		}
		sum.Tenants, sum.Keys = sum.Tenants+r.Tenants, sum.Keys+r.Keys
		sum.Pending, sum.Done, sum.Failed = r.Pending, r.Done, r.Failed
		if r.Done || r.Tenants == 0 { // or else it would go on for ever
			break
		}
		note(s.err, "tenants done: %d, to do: %d", sum.Tenants, sum.Pending)
	}
	if s.json() {
		err = s.printJSON(sum)
	} else {
		err = s.printRows(row{"tenants", decimal(sum.Tenants)}, row{"provider keys", decimal(sum.Keys)}, row{"left", decimal(sum.Pending)})
	}
	switch {
	case err != nil:
		return err
	case sum.Failed != "":
		return &failure{message: sum.Failed, hints: []string{"configure the master key or KMS that was in force when they were stored as the previous one, and run it again",
			"or delete those provider keys and store them anew: caddy keytoll provider-keys list <tenant>"}}
	case !sum.Done:
		return &failure{message: "not all was done", hints: []string{"run it again: it goes on where it ended"}}
	}
	return nil
}
