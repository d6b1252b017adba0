package boltstore

import (
	"context"
	"errors"
	"io"

	"github.com/keytoll/keytoll/caddymodule/access"
)

var errPending = errors.New("not there yet")

func (s *Store) Backup(ctx context.Context, w io.Writer) (int64, error) { return 0, errPending }
func (r *reader) Use(id access.KeyID) (access.Use, error)               { return access.Use{}, nil }
func (r *reader) Audit(after uint64, yield func(seq uint64, record []byte) bool) error {
	return nil
}
func (r *reader) LastAudit() (uint64, []byte, error)                    { return 0, nil, nil }
func (r *reader) Answer(id [32]byte) (int64, []byte, error)             { return 0, nil, errPending }
func (t *tx) PutUse(id access.KeyID, u access.Use) error                { return nil }
func (t *tx) PutAudit(seq uint64, record []byte) error                  { return nil }
func (t *tx) TrimAudit(before uint64) error                             { return nil }
func (t *tx) PutAnswer(id [32]byte, expires int64, sealed []byte) error { return nil }
func (t *tx) TrimAnswers(now int64, max int) (int, error)               { return 0, nil }
func (t *tx) Bury(digests ...[32]byte) error                            { return nil }
