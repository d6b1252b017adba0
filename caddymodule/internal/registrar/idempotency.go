package registrar

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// answerLife is how long the answer of a request with an idempotency key is
// kept.
const answerLife = 10 * time.Minute

// MaxIdempotencyKey is the longest idempotency key, in bytes.
const MaxIdempotencyKey = 255

// Idempotency makes a repeated request return the answer of the first.
type Idempotency struct {
	Key   string   // the client's: 1 to 255 visible ASCII characters
	Scope string   // who asks: "operator" or the id of the caller's key
	Body  [32]byte // hash of the request; another one under the same Key is a Mismatch
}

// Issued is a key together with its new secret.
type Issued struct {
	Key      *access.Key
	Secret   token.Secret
	Replayed bool // the answer of an earlier request with the same Idempotency
}

// once is one request that is answered the same however often it comes. A nil
// once is answered anew each time.
type once struct {
	r    *Registrar
	id   [32]byte
	body [32]byte
}

// kept is what is sealed.
type kept struct {
	Body   []byte
	Secret string        `json:",omitempty"`
	Key    *access.Key   `json:",omitempty"`
	Grant  *access.Grant `json:",omitempty"` // in place of both
}

// newOnce checks i, which may be nil. At a desk the scope is the caller,
// whatever i says. The route keeps apart what is asked of different objects.
func (r *Registrar) newOnce(i *Idempotency, d *Desk, route string) (*once, error) {
	if i == nil {
		return nil, nil
	}
	if i.Key == "" || len(i.Key) > MaxIdempotencyKey {
		return nil, invalid("idempotency_key", "an idempotency key has 1 to %d characters", MaxIdempotencyKey)
	}
	for _, c := range []byte(i.Key) {
		if c <= ' ' || c >= 0x7f {
			return nil, invalid("idempotency_key", "an idempotency key is made of visible ASCII characters")
		}
	}
	scope := i.Scope
	if d != nil {
		scope = d.caller.String()
	}
	return &once{r: r, id: r.o.Digester.Sum("\x00answer\x00" + scope + "\x00" + route + "\x00" + i.Key), body: i.Body}, nil
}

// replay looks for the kept answer outside of any change, so that a repeated
// request waits for no writer. It returns nil if there is none.
func (o *once) replay(ctx context.Context, d *Desk) (out *Issued, err error) {
	if o == nil {
		return nil, nil
	}
	err = o.r.o.Store.View(ctx, func(rd store.Reader) (err error) {
		out, err = o.find(rd, d)
		return err
	})
	if err = public("reading a kept answer", err); err != nil {
		return nil, err
	}
	return out, nil
}

// find returns the kept answer, or nil if there is none. At a desk it refuses a
// caller that is good no longer, or may by now do less than the key that was
// issued: the answer holds its secret.
func (o *once) find(rd store.Reader, d *Desk) (*Issued, error) {
	if o == nil {
		return nil, nil
	}
	b := new(bounds)
	if d != nil {
		var err error
		if b, err = d.bounds(rd); err != nil {
			return nil, err
		}
	}
	k, err := o.load(rd)
	if k == nil || k.Key == nil || err != nil {
		return nil, err
	}
	if err := o.r.covers(b, k.Key); err != nil {
		return nil, err
	}
	return &Issued{Key: k.Key, Secret: token.Wrap(k.Secret), Replayed: true}, nil
}

// load returns what was sealed, or nil if there is nothing.
func (o *once) load(rd store.Reader) (*kept, error) {
	if o == nil {
		return nil, nil
	}
	expires, sealed, err := rd.Answer(o.id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	case expires <= o.r.o.Now().Unix():
		return nil, nil
	}
	plain, err := o.r.box.Open(o.id[:], sealed)
	if err != nil {
		return nil, err
	}
	var k kept
	if err := json.Unmarshal(plain, &k); err != nil {
		return nil, errors.New("a kept answer is unreadable") // err may quote it
	}
	if string(k.Body) != string(o.body[:]) {
		return nil, &Error{Code: Mismatch, Field: "idempotency_key",
			Message: "this idempotency key was used for a request with another body", Hint: "use a new one for each new request"}
	}
	return &k, nil
}

// keep stores an answer in the transaction that makes it true.
func (o *once) keep(tx store.Tx, a *Issued) error {
	return o.seal(tx, kept{Secret: a.Secret.Reveal(), Key: a.Key})
}

// seal is keep for any answer; it sets k.Body.
func (o *once) seal(tx store.Tx, k kept) error {
	if o == nil {
		return nil
	}
	now := o.r.o.Now()
	if _, err := tx.TrimAnswers(now.Unix(), 16); err != nil {
		return err
	}
	k.Body = o.body[:]
	plain, err := json.Marshal(k)
	if err != nil {
		return err
	}
	return tx.PutAnswer(o.id, now.Add(answerLife).Unix(), o.r.box.Seal(o.id[:], plain))
}
