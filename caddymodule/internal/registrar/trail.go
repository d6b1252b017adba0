package registrar

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/audit"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// AuditFilter says which audit entries a list holds. Empty fields match all.
type AuditFilter struct {
	Tenant string
	Object string
	Action string
	Actor  string    // an actor's kind, name or key
	Since  time.Time // at or after
	Until  time.Time // before
}

// Audit returns up to limit entries with numbers greater than after, the
// oldest first, and the number to go on after, 0 at the end. A limit of 0 is
// DefaultLimit. A page looks at 2,000 entries at most: with a filter it may be
// short or empty and yet not the last. It does not verify. Errors:
// InvalidRequest, Unavailable.
func (r *Registrar) Audit(ctx context.Context, f AuditFilter, after uint64, limit int) (page []access.AuditEntry, next uint64, err error) {
	if limit, err = checkLimit(limit); err != nil {
		return nil, 0, err
	}
	err = r.o.Store.View(ctx, func(rd store.Reader) (bad error) {
		page, next = nil, 0
		visited, last := 0, after
		err := rd.Audit(after, func(seq uint64, record []byte) bool {
			if len(page) == limit || visited == maxVisits {
				next = last
				return false
			}
			visited++
			last = seq
			e, err := audit.Read(record)
			if err != nil {
				bad = fmt.Errorf("audit record %d: %w", seq, err)
				return false
			}
			if f.match(&e) {
				page = append(page, e)
			}
			return true
		})
		return errors.Join(err, bad)
	})
	if err != nil {
		return nil, 0, public("listing the audit trail", broken(err))
	}
	return page, next, nil
}

func (f *AuditFilter) match(e *access.AuditEntry) bool {
	same := func(want, got string) bool { return want == "" || want == got }
	return same(f.Tenant, e.Tenant) && same(f.Object, e.Object) && same(f.Action, e.Action) &&
		(f.Actor == "" || f.Actor == e.Actor.Kind || f.Actor == e.Actor.Name || f.Actor == e.Actor.Key) &&
		!e.At.Before(f.Since) && (f.Until.IsZero() || e.At.Before(f.Until))
}

// trimmed is the After of an audit.trimmed entry.
type trimmed struct {
	First uint64 `json:"first"` // number of the first entry that was kept
}

const actionTrimmed = "audit.trimmed"

// VerifyAudit checks the whole audit trail and returns how many entries it
// has. At a record that was changed, removed or moved, the newest too, it
// returns a Conflict that wraps audit.ErrBroken and names its number, and how
// many came before it. Other errors: Unavailable.
func (r *Registrar) VerifyAudit(ctx context.Context) (count uint64, err error) {
	err = r.o.Store.View(ctx, func(rd store.Reader) (bad error) {
		count = 0
		v := audit.NewVerifier(r.chain)
		start, anchor := uint64(0), uint64(1)
		err := rd.Audit(0, func(seq uint64, record []byte) bool {
			if bad = v.Add(seq, record); bad != nil {
				return false
			}
			if count++; count == 1 {
				start = seq
			}
			if e, err := audit.Read(record); err == nil && e.Action == actionTrimmed {
				var t trimmed
				if bad = json.Unmarshal(e.After, &t); bad != nil {
					return false
				}
				anchor = t.First
			}
			if count%1024 == 0 {
				bad = ctx.Err()
			}
			return bad == nil
		})
		if err = errors.Join(err, bad); err == nil && count > 0 && start != anchor {
			err = fmt.Errorf("%w: it starts with record %d and was trimmed to record %d", audit.ErrBroken, start, anchor)
		}
		if err != nil {
			return err
		}
		newest, _, err := rd.LastAudit()
		if err == nil && newest != v.Last() {
			err = fmt.Errorf("%w: record %d is missing, %d was the newest", audit.ErrBroken, v.Last()+1, newest)
		}
		return err
	})
	return count, public("verifying the audit trail", broken(err))
}

// broken makes a broken trail a refusal that says where.
func broken(err error) error {
	if !errors.Is(err, audit.ErrBroken) {
		return err
	}
	return &Error{Code: Conflict, Message: err.Error(), Hint: "compare with a backup: somebody changed the database, or it was damaged", cause: err}
}

// RecordBackup notes in the audit trail that a backup of so many bytes was
// made. Errors: Unavailable.
func (r *Registrar) RecordBackup(ctx context.Context, bytes int64) error {
	err := r.o.Store.Update(ctx, func(tx store.Tx) error {
		return r.record(ctx, tx, act{action: "backup.made", object: "database", after: map[string]int64{"bytes": bytes}})
	})
	return public("recording a backup", err)
}

// RecordReplay notes in the audit trail that the store revoked n keys when it
// was opened, because the database was older than its list of revocations. It
// does nothing for none. Errors: Unavailable.
func (r *Registrar) RecordReplay(ctx context.Context, n int) error {
	if n <= 0 {
		return nil
	}
	ctx = WithActor(ctx, access.Actor{Kind: access.ActorSystem, Name: "store"})
	err := r.o.Store.Update(ctx, func(tx store.Tx) error {
		return errors.Join(forgetCounts(tx), r.record(ctx, tx, act{action: "keys.replayed", object: "keys", after: map[string]int{"revoked": n}}))
	})
	return public("recording a replay of revocations", err)
}

// trimBatch is how many entries one transaction drops.
const trimBatch = 5000

// trimAudit drops the entries that are older than the policy keeps them. Those
// that tell of this alone are no reason to do it again.
func (r *Registrar) trimAudit(ctx context.Context) error {
	retain := r.o.Policy().AuditRetain
	if retain <= 0 {
		return nil
	}
	keep := r.now().Add(-retain)
	for more := true; more; {
		err := r.o.Store.Update(ctx, func(tx store.Tx) error {
			first, worth, err := oldest(tx, keep)
			more = worth
			if err != nil {
				return err
			}
			if !worth {
				return errUnchanged
			}
			// The entry comes first: the newest is never trimmed, and so no number is
			// given twice.
			err = r.record(ctx, tx, act{action: actionTrimmed, object: "audit", after: trimmed{First: first}})
			return errors.Join(err, tx.TrimAudit(first))
		})
		if err = public("trimming the audit trail", err); err != nil {
			return err
		}
	}
	return nil
}

// oldest returns the number below which entries may go, of a batch, and
// whether that is worth it.
func oldest(rd store.Reader, keep time.Time) (before uint64, worth bool, err error) {
	n := 0
	var bad error
	err = rd.Audit(0, func(seq uint64, record []byte) bool {
		var e access.AuditEntry
		if e, bad = audit.Read(record); bad != nil || n == trimBatch || !e.At.Before(keep) {
			before = seq
			return false
		}
		n++
		before = seq + 1
		worth = worth || e.Action != actionTrimmed
		return true
	})
	return before, worth, errors.Join(err, bad)
}
