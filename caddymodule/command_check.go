package caddymodule

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/keytoll/keytoll/caddymodule/internal/engine"
	"github.com/keytoll/keytoll/caddymodule/store/boltstore"
)

func checkCommand() *cobra.Command {
	cmd := file(leaf("check [<file>] [--db <path>] [--master-key <placeholder>] [--previous-master-key <placeholder>] [--json]", "Checks a backup, or the database of a stopped server",
		`  $ caddy keytoll check
  $ caddy keytoll check --db /var/lib/keytoll/keytoll.db
  $ caddy keytoll check keytoll-backup.db --master-key {file./var/lib/keytoll/master.key}`, several, check))
	cmd.Long = `Reads a whole database and changes nothing: its pages, the seal and the form of
each record, and that the records fit together. The exit code is 1 if anything is
wrong.`
	return offline(cmd, true)
}

// checked is the result of a check.
type checked struct {
	Database     string     `json:"database"`
	Bytes        int64      `json:"bytes"`
	Schema       uint32     `json:"schema"`
	Commits      uint64     `json:"commits"`
	Tenants      int        `json:"tenants"`
	Keys         int        `json:"keys"`
	Revoked      int        `json:"revoked"`
	Uses         int        `json:"uses"`
	Audit        int        `json:"audit"`
	Answers      int        `json:"answers"`
	Revocations  int        `json:"revocations"`
	ProviderKeys int        `json:"provider_keys"`
	Counters     int        `json:"counters"`              // of credits and quotas, in the database's copy
	CountersAt   *time.Time `json:"counters_at,omitempty"` // when that was made
	Problems     []string   `json:"problems"`
}

func check(s *session, args []string) error {
	path := s.database()
	switch {
	case len(args) > 1 || len(args) == 1 && s.given("db"):
		return usage("%s takes one file, or --db", s.cmd.CommandPath())
	case len(args) == 1:
		path = args[0]
	}
	masters, err := s.masters()
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); err != nil { // before the master key is missed beside it
		return offlineFailure(err, path)
	}
	var counts engine.CountersIn
	r, err := boltstore.CheckBlobs(path, counts.Blob, masters...)
	if err != nil {
		return offlineFailure(err, path)
	}
	if err := counts.Missing(); err != nil {
		r.Problems = append(r.Problems, err.Error())
	}
	if err := s.printChecked(path, r, &counts); err != nil {
		return err
	}
	if len(r.Problems) == 0 {
		return nil
	}
	f := &failure{message: fmt.Sprintf("database %s does not hold together: problems: %d", path, len(r.Problems)), hints: []string{
		"stop the server, then: caddy keytoll restore <backup> --db " + path}}
	if len(args) == 1 {
		f.hints = []string{"if it is a backup, make another one: caddy keytoll backup <file>",
			"if it is the database, restore a backup: caddy keytoll restore <backup> --db " + path}
	}
	return f
}

func (s *session) printChecked(path string, r boltstore.Report, counts *engine.CountersIn) error {
	copied := "no copy"
	var at *time.Time
	if !counts.At.IsZero() {
		at, copied = &counts.At, fmt.Sprintf("%d, as of %s", counts.Counters, counts.At.Format(time.RFC3339))
	}
	if s.json() {
		return s.printJSON(checked{path, r.Bytes, r.Schema, r.Commits, r.Tenants, r.Keys, r.Revoked, r.Uses, r.Audit, r.Answers,
			r.Buried, r.ProviderKeys, counts.Counters, at, append([]string{}, r.Problems...)})
	}
	rows := []row{{"database", path}, {"bytes", decimal(r.Bytes)}, {"schema", decimal(r.Schema)}, {"commits", decimal(r.Commits)},
		{"tenants", decimal(r.Tenants)}, {"keys", fmt.Sprintf("%d, %d of them revoked", r.Keys, r.Revoked)}, {"uses", decimal(r.Uses)},
		{"audit entries", decimal(r.Audit)}, {"kept answers", decimal(r.Answers)}, {"revocations", decimal(r.Buried)},
		{"provider keys", decimal(r.ProviderKeys)}, {"counters", copied}}
	if len(r.Problems) == 0 {
		rows = append(rows, row{"problems", "none"})
	}
	for _, p := range r.Problems {
		rows = append(rows, row{"problem", p})
	}
	return s.printRows(rows...)
}
