package registrar

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// sweepBlob names what sweeps remember.
const sweepBlob = "registrar/sweep"

// sweepState is kept as JSON. All are unix seconds unless they say otherwise.
type sweepState struct {
	Noticed int64 `json:"noticed"` // time of the last sweep that looked for expiring keys
	Uses    int64 `json:"uses"`    // since when a key without a use is known to be unused
	Graces  int64 `json:"graces"`  // when the last grace of a rotated secret ends; 0: none

	Overrides  int64  `json:"overrides"`  // when the first override of a key ends, or before; 0: none does
	Overridden uint64 `json:"overridden"` // how many times one with an end was set; no time
}

func readSweep(rd store.Reader) (s sweepState, err error) {
	b, err := rd.Blob(sweepBlob)
	if errors.Is(err, store.ErrNotFound) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(b, &s)
}

func changeSweep(tx store.Tx, change func(*sweepState)) error {
	s, err := readSweep(tx)
	if err != nil {
		return err
	}
	was := s
	if change(&s); s == was {
		return nil
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return tx.PutBlob(sweepBlob, b)
}

// noteGrace makes sweeps look for the end of k's grace.
func (r *Registrar) noteGrace(tx store.Tx, k *access.Key) error {
	if k.Previous == nil {
		return nil
	}
	return changeSweep(tx, func(s *sweepState) { s.Graces = max(s.Graces, k.Previous.Until) })
}

// Sweep does what time asks for: keys unused for the policy's IdleExpiry
// expire, secrets whose grace has ended are dropped for good and so are
// overrides that are over and grants that expired 90 days ago, api_key_expiring
// is sent once for each key and each of the policy's Notice that was passed
// since the last sweep (of several the shortest), and kept answers and audit
// entries that are too old go. Call it now and then, such as each hour, from
// one goroutine. Errors: Unavailable.
func (r *Registrar) Sweep(ctx context.Context) error {
	ctx = WithActor(ctx, access.Actor{Kind: access.ActorSystem, Name: "sweep"})
	return errors.Join(r.trimAnswers(ctx), r.sweepKeys(ctx), r.sweepTenants(ctx), r.trimAudit(ctx))
}

func (r *Registrar) trimAnswers(ctx context.Context) error {
	for n := answerBatch; n == answerBatch; {
		err := r.o.Store.Update(ctx, func(tx store.Tx) (err error) {
			if n, err = tx.TrimAnswers(r.o.Now().Unix(), answerBatch); err == nil && n == 0 {
				return errUnchanged
			}
			return err
		})
		if err = public("dropping kept answers", err); err != nil {
			return err
		}
	}
	return nil
}

const answerBatch = 1000

// pass is one look at all keys.
type pass struct {
	r       *Registrar
	policy  Policy
	notices []time.Duration // ascending
	state   sweepState
	now     int64
	next    int64          // when the first override that stays ends; 0: none
	over    []access.KeyID // to be changed
	soon    []*access.Key  // to be told of
	notice  []time.Duration
}

func (r *Registrar) sweepKeys(ctx context.Context) error {
	p := &pass{r: r, policy: r.o.Policy(), now: r.now().Unix()}
	p.notices = slices.Sorted(slices.Values(p.policy.Notice))
	err := r.o.Store.Update(ctx, func(tx store.Tx) (err error) {
		if p.state, err = readSweep(tx); err != nil {
			return err
		}
		if p.state.Uses != 0 {
			return errUnchanged
		}
		p.state.Uses = p.now // uses were not written down before
		return changeSweep(tx, func(s *sweepState) { s.Uses = p.now })
	})
	if err = public("sweeping keys", err); err != nil {
		return err
	}
	ended := p.state.Graces != 0 && p.state.Graces <= p.now
	if p.policy.IdleExpiry <= 0 && len(p.notices) == 0 && p.state.Graces == 0 &&
		(p.state.Overrides == 0 || p.state.Overrides > p.now) {
		return nil
	}
	for after, more := (access.KeyID{}), true; more; {
		if after, more, err = p.look(ctx, after); err != nil {
			return public("sweeping keys", err)
		}
		if err := p.act(ctx); err != nil {
			return err
		}
	}
	err = r.o.Store.Update(ctx, func(tx store.Tx) error {
		return changeSweep(tx, func(s *sweepState) {
			s.Noticed = p.now
			if ended && s.Graces <= p.now {
				s.Graces = 0
			}
			if s.Overridden == p.state.Overridden { // else one was set meanwhile: look again
				s.Overrides = p.next
			}
		})
	})
	return public("sweeping keys", err)
}

// look visits some keys after the given one and sorts out those to act upon.
func (p *pass) look(ctx context.Context, after access.KeyID) (last access.KeyID, more bool, err error) {
	last = after
	err = p.r.o.Store.View(ctx, func(rd store.Reader) (failed error) {
		visited := 0
		err := rd.Keys("", after, func(k *access.Key) bool {
			if more = visited == maxVisits; more {
				return false
			}
			visited++
			last = k.ID
			if k.Status == access.StatusRevoked {
				return true
			}
			failed = p.consider(rd, k)
			return failed == nil
		})
		return errors.Join(err, failed)
	})
	return last, more, err
}

func (p *pass) consider(rd store.Reader, k *access.Key) error {
	idle, err := p.idle(rd, k)
	if err != nil {
		return err
	}
	if idle || p.ended(k) || over(k.Override, p.now) {
		p.over = append(p.over, k.ID)
	}
	if k.Override != nil && !over(k.Override, p.now) {
		p.next = sooner(p.next, k.Override.Until)
	}
	if idle {
		return nil
	}
	for _, n := range p.notices {
		at := k.Expires - int64(n/time.Second)
		if k.Expires <= p.now || at > p.now {
			continue
		}
		if at > p.state.Noticed && k.Status == access.StatusActive {
			p.soon, p.notice = append(p.soon, k), append(p.notice, n)
		}
		return nil // a longer one was passed before
	}
	return nil
}

// ended reports whether k has an old secret that is good no longer.
func (p *pass) ended(k *access.Key) bool { return k.Previous != nil && k.Previous.Until <= p.now }

// idle reports whether k was unused for too long.
func (p *pass) idle(rd store.Reader, k *access.Key) (bool, error) {
	limit := int64(p.policy.IdleExpiry / time.Second)
	since := max(k.CreatedAt.Unix(), k.RotatedAt.Unix(), p.state.Uses)
	if limit <= 0 || since+limit > p.now || k.Expires != 0 && k.Expires <= p.now {
		return false, nil
	}
	u, err := rd.Use(k.ID)
	return err == nil && u.At+limit <= p.now, err
}

// act does what look found.
func (p *pass) act(ctx context.Context) error {
	for ids := range slices.Chunk(p.over, endBatch) {
		if err := p.end(ctx, ids); err != nil {
			return err
		}
	}
	for i, k := range p.soon {
		data := keyEvent(k)
		data["notice_seconds"] = int64(p.notice[i] / time.Second)
		p.r.emit("api_key_expiring", data)
	}
	p.over, p.soon, p.notice = p.over[:0], p.soon[:0], p.notice[:0]
	return nil
}

// endBatch is how many keys one transaction of a sweep changes.
const endBatch = 200

// end drops the old secrets and overrides of keys and lets the idle ones expire, if what
// look saw still holds.
func (p *pass) end(ctx context.Context, ids []access.KeyID) error {
	var expired []*access.Key
	err := p.r.o.Store.Update(ctx, func(tx store.Tx) error {
		expired = nil
		changed := false
		for _, id := range ids {
			k, did, err := p.endKey(ctx, tx, id)
			if err != nil {
				return err
			}
			changed = changed || did
			if k != nil {
				expired = append(expired, k)
			}
		}
		if !changed {
			return errUnchanged
		}
		return nil
	})
	if err = public("sweeping keys", err); err != nil {
		return err
	}
	for _, k := range expired {
		p.r.emit("api_key_expired", keyEvent(k))
	}
	return nil
}

// endKey changes one key. It returns the key if it expired for want of use.
func (p *pass) endKey(ctx context.Context, tx store.Tx, id access.KeyID) (expired *access.Key, changed bool, err error) {
	k, err := tx.Key(id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	idle, err := p.idle(tx, k)
	if err != nil || k.Status == access.StatusRevoked || !idle && !p.ended(k) && !over(k.Override, p.now) {
		return nil, false, err
	}
	before, action := formOf(k), "key.updated"
	if idle {
		action, k.Expires, expired = "key.expired", p.now, k
	}
	if over(k.Override, p.now) {
		k.Override = nil
	}
	var dead [][32]byte
	if k.Previous != nil && (idle || p.ended(k)) {
		dead = append(dead, k.Previous.Digest)
		k.Previous = nil
	}
	return expired, true, errors.Join(tx.UpdateKey(k), bury(tx, k.ID, dead), p.r.recordKey(ctx, tx, action, before, k))
}
