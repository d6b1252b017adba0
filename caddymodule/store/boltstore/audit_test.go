package boltstore

import (
	"encoding/binary"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/keytoll/keytoll/caddymodule/store"
)

// lastAudit opens the database at path for a moment.
func lastAudit(t *testing.T, path string, fn func(store.Tx) error) (seq uint64, record []byte) {
	t.Helper()
	s := mustOpen(t, path)
	if fn != nil {
		if err := s.Update(t.Context(), fn); err != nil {
			t.Fatal(err)
		}
	}
	err := s.View(t.Context(), func(r store.Reader) (err error) {
		seq, record, err = r.LastAudit()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return seq, record
}

// Records that go without being trimmed are missed, whatever is done since.
func TestAuditCutOff(t *testing.T) {
	path := sample(t)
	first, _ := lastAudit(t, path, nil)
	lastAudit(t, path, func(tx store.Tx) error {
		for n := first + 1; n <= first+3; n++ {
			if err := tx.PutAudit(n, []byte("record")); err != nil {
				return err
			}
		}
		return nil
	})
	wantProblem := func(want bool) {
		t.Helper()
		report, err := Check(path, nil)
		if err != nil || want != (len(report.Problems) > 0) || want && !strings.HasSuffix(report.Problems[0], "are missing") {
			t.Fatalf("problems %q, %v; want some: %v", report.Problems, err, want)
		}
	}
	wantProblem(false)
	rewrite(t, path, func(tx *bolt.Tx) error { return tx.Bucket(bucketAudit).Delete(auditID(first + 3)) })
	wantProblem(true)
	for _, fn := range []func(store.Tx) error{nil, func(tx store.Tx) error { return tx.PutBlob("b", []byte("x")) }} {
		if seq, record := lastAudit(t, path, fn); seq != first+3 || record != nil {
			t.Fatalf("%d %q, want %d and nil", seq, record, first+3)
		}
	}
	seq, record := lastAudit(t, path, func(tx store.Tx) error {
		if tx.PutAudit(first+3, nil) == nil {
			t.Error("a number was given twice")
		}
		return tx.PutAudit(first+4, []byte("next"))
	})
	if seq != first+4 || string(record) != "next" {
		t.Fatalf("%d %q", seq, record)
	}
}

// A database of before the note gets it with its first change.
func TestAuditNoteIsAdded(t *testing.T) {
	path := sample(t)
	lastAudit(t, path, func(tx store.Tx) error { return tx.TrimAudit(1 << 62) })
	lastAudit(t, path, func(tx store.Tx) error { return tx.PutAudit(7, []byte("record")) })
	s := mustOpen(t, path)
	tags, commits := newTagger(s.master.Derive(tagPurpose)), s.commits
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	rewrite(t, path, func(tx *bolt.Tx) error {
		b := binary.BigEndian.AppendUint64(nil, commits)
		return tx.Bucket(bucketMeta).Put(metaCommits, tags.seal(bucketMeta, metaCommits, b))
	})
	for _, fn := range []func(store.Tx) error{nil, func(tx store.Tx) error { return tx.PutBlob("b", []byte("x")) }} {
		if seq, record := lastAudit(t, path, fn); seq != 7 || string(record) != "record" {
			t.Fatalf("%d %q", seq, record)
		}
	}
	rewrite(t, path, func(tx *bolt.Tx) error { return tx.Bucket(bucketAudit).Delete(auditID(7)) })
	if seq, record := lastAudit(t, path, nil); seq != 7 || record != nil {
		t.Fatalf("cut off: %d %q", seq, record)
	}
}
