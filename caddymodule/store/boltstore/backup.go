package boltstore

import (
	"context"
	"io"
)

// Backup implements store.Store. The copy is a database file of this package;
// it is read from one transaction, and the file is larger afterwards by what is
// changed meanwhile. It ends early when ctx does.
func (s *Store) Backup(ctx context.Context, w io.Writer) (n int64, err error) {
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	defer s.active.Done()
	out := &backupWriter{ctx: ctx, w: w}
	err = guard(s.path, func() error {
		tx, err := s.db.Begin(false)
		if err != nil {
			return storageError(s.path, err)
		}
		defer tx.Rollback()
		n, err = tx.WriteTo(out)
		if err == nil && n != tx.Size() {
			return damaged(s.path, "%d bytes of %d could be read", n, tx.Size())
		}
		return err
	})
	if out.err != nil {
		err = out.err // not the file's
	}
	return n, err
}

// backupWriter ends with its context.
type backupWriter struct {
	ctx context.Context
	w   io.Writer
	err error
}

func (b *backupWriter) Write(p []byte) (n int, err error) {
	if b.err == nil {
		b.err = b.ctx.Err()
	}
	if b.err == nil {
		n, b.err = b.w.Write(p)
	}
	return n, b.err
}
