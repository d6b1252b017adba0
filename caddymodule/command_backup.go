package caddymodule

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/store/boltstore"
	"github.com/keytoll/keytoll/caddymodule/token"
)

func backupCommand() *cobra.Command {
	cmd := file(remote(leaf("backup <file> [--force] [--json]", "Writes a copy of the running server's database to a file",
		"  $ caddy keytoll backup keytoll-backup.db\n  $ caddy keytoll backup --force /var/backups/keytoll.db", 1, backup)))
	cmd.Long = `Writes a copy of the running server's database, as it is at one moment, to a file.
Requests and changes go on meanwhile. The file is there whole or not at all. What
credits and quotas have counted by its beginning is in it.

The copy holds no master key and is of no use without it: keep that too, elsewhere.`
	cmd.Flags().Bool("force", false, "Replace the file if it is there")
	return complete(cmd, nil)
}

func backup(s *session, args []string) error {
	if args[0] == "-" {
		return usage("a backup is written to a file, which is there whole or not at all, and not to standard output")
	}
	c, err := s.client()
	if err != nil {
		return err
	}
	n, err := s.writeFile(args[0], c.Backup)
	if err != nil {
		return err
	}
	note(s.err, "the master key is not in it: keep that too, elsewhere")
	note(s.err, "hint: caddy keytoll check %s --master-key {file./path/to/master.key}", args[0])
	if s.json() {
		return s.printJSON(map[string]any{"file": args[0], "bytes": n})
	}
	return s.printRows(row{"file", args[0]}, row{"bytes", decimal(n)})
}

// writeFile writes a file of mode 0600 that is there whole or not at all. It
// replaces none without --force.
func (s *session) writeFile(path string, write func(io.Writer) (int64, error)) (n int64, err error) {
	exists := &failure{message: path + " is there already", hints: []string{"name another file, or replace it with --force"}}
	if _, err := os.Lstat(path); err == nil && !s.is("force") {
		return 0, exists
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return 0, &failure{message: err.Error(), hints: []string{"name a file in a directory that you may write to"}}
	}
	defer os.Remove(tmp.Name()) // gone already if it was renamed
	n, err = write(tmp)
	if err == nil {
		err = tmp.Sync()
	}
	if bad := tmp.Close(); err == nil {
		err = bad
	}
	if err != nil {
		return n, err
	}
	if !s.is("force") {
		// Unlike a renaming, a link does not replace a file that came meanwhile.
		if err := os.Link(tmp.Name(), path); err == nil {
			return n, syncDir(path)
		} else if errors.Is(err, fs.ErrExist) {
			return n, exists
		}
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return n, err
	}
	return n, syncDir(path)
}

// syncDir makes the name of a file durable, where the system can.
func syncDir(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	_ = dir.Sync() // not every system can; the file itself is on the disk
	return nil
}

// offline adds the flags that say where the database of a stopped server is.
func offline(cmd *cobra.Command, master bool) *cobra.Command {
	cmd.Flags().String("db", "", "Path of the database (default: "+defaultDatabase()+")")
	if master {
		cmd.Flags().String("master-key", "", "Where the master key is, as in the configuration: {file./path/to/master.key} or {env.NAME} (default: master.key beside the database)")
		cmd.Flags().String("previous-master-key", "", "Where the master key before it is, if the database may be of the time before it was replaced")
	}
	return complete(cmd, nil)
}

func (s *session) database() string {
	if path := s.text("db"); path != "" {
		return path
	}
	return defaultDatabase()
}

// masters returns the key that --master-key names, or nil, and if
// --previous-master-key is given the key which that names.
func (s *session) masters() ([]*token.Master, error) {
	masters := []*token.Master{nil}
	for i, flag := range []string{"master-key", "previous-master-key"} {
		text := s.text(flag)
		if text == "" {
			continue
		}
		if !placeholder(text) {
			return nil, usage("--%s: want {file./path/to/master.key} or {env.NAME}; the key itself would be seen by others", flag)
		}
		m, err := readMaster("--"+flag, text)
		if err != nil {
			return nil, &failure{message: err.Error(), hints: []string{"is that where the server's configuration has it?"}}
		}
		masters = append(masters[:i], m)
	}
	return masters, nil
}

func restoreCommand() *cobra.Command {
	cmd := file(leaf("restore <backup> [--db <path>] [--master-key <placeholder>] [--previous-master-key <placeholder>] [--json]", "Puts a backup in the place of a stopped server's database",
		"  $ caddy keytoll restore keytoll-backup.db --db /var/lib/keytoll/keytoll.db\n  $ caddy keytoll restore keytoll-backup.db --master-key {env.KEYTOLL_MASTER_KEY}", 1, restore))
	cmd.Long = `Checks a backup and puts a copy of it in the place of the database of a server that
is stopped. The old database is kept beside it, with .before-restore behind its
name. Run it as the user that Caddy runs as.

Keys that were revoked or rotated since the backup stay dead: they are listed in
a file beside the database, which is applied at the next start. Credits and quotas
go on as the backup has them. If a file of counters is still beside the database,
the higher use of each counts.

A backup opens with the master key of its time. If that was replaced since, name
it with --previous-master-key, and as previous_master_key in the configuration
until 'caddy keytoll rekey' was run again.`
	return offline(cmd, true)
}

func restore(s *session, args []string) error {
	masters, err := s.masters()
	if err != nil {
		return err
	}
	path := s.database()
	_, noneBefore := os.Lstat(path)
	if err := boltstore.Restore(args[0], path, masters...); err != nil {
		return offlineFailure(err, path)
	}
	if noneBefore == nil {
		note(s.err, "the database before is kept as %s.before-restore", path)
	}
	note(s.err, "hint: start the server, then: caddy keytoll audit verify")
	if s.json() {
		return s.printJSON(map[string]any{"database": path, "restored": args[0]})
	}
	return s.printRows(row{"database", path}, row{"restored", args[0]})
}

func compactCommand() *cobra.Command {
	cmd := leaf("compact [--db <path>] [--json]", "Rewrites the database of a stopped server without unused space",
		"  $ caddy keytoll compact\n  $ caddy keytoll compact --db /var/lib/keytoll/keytoll.db", 0, func(s *session, _ []string) error {
			path := s.database()
			before, after, err := boltstore.Compact(path)
			if err != nil {
				return offlineFailure(err, path)
			}
			if s.json() {
				return s.printJSON(map[string]any{"database": path, "bytes_before": before, "bytes": after})
			}
			return s.printRows(row{"database", path}, row{"bytes before", decimal(before)}, row{"bytes", decimal(after)})
		})
	return offline(cmd, false)
}

// offlineFailure adds the next step to what a stopped server's database was
// refused for.
func offlineFailure(err error, path string) error {
	f := &failure{message: err.Error()}
	switch {
	case errors.Is(err, store.ErrLocked):
		f.hints = []string{"stop the server, or copy its database while it runs: caddy keytoll backup <file>"}
	case errors.Is(err, store.ErrMasterKey):
		f.hints = []string{"name the key with --master-key {file./path/to/master.key} or {env.NAME}, as the configuration does",
			"if it was replaced since this database was written, name the one before it with --previous-master-key"}
	case errors.Is(err, store.ErrNewer):
		f.hints = []string{"use the keytoll that wrote it, or a newer one"}
	case errors.Is(err, store.ErrDamaged):
		f.hints = []string{"stop the server, then: caddy keytoll restore <backup> --db " + path}
	case errors.Is(err, fs.ErrPermission):
		f.hints = []string{"run it as the user that caddy runs as"}
	case errors.Is(err, fs.ErrNotExist):
		f.hints = []string{"name the database with --db, as the configuration's storage path does"}
	default:
		return err
	}
	return f
}

// decimal writes a number as text.
func decimal[N int | int64 | uint32 | uint64](n N) string { return fmt.Sprintf("%d", n) }
