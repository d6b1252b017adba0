// Package learn asks an existing backend about keys that are not known here,
// for the time in which customers move in. Each key is put to it once: what it
// accepts is adopted, what it refuses is remembered for a while. How often it is
// asked is bounded, so that a flood of made-up keys does not become its flood.
// No error and no log line holds a key.
package learn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// Bounds of a question.
const (
	MaxTimeout    = 5 * time.Second
	MaxAnswer     = 64 << 10 // bytes of the backend's body that are read
	maxConcurrent = 16
	maxNegatives  = 1 << 15 // keys a generation of the cache holds
)

// Options is what a Learner works with.
type Options struct {
	// Request makes the question about a key. The learner sets the deadline and
	// follows no redirect. Its errors must not hold the key. Required.
	Request func(ctx context.Context, secret token.Secret) (*http.Request, error)
	// Tenant finds the tenant in an answer that accepts the key; see Pointer and
	// Header. Required.
	Tenant func(header http.Header, body []byte) (tenant string, ok bool)
	// Adopt stores the key for a tenant and returns its id. It must allow being
	// asked twice. Required.
	Adopt func(ctx context.Context, tenant string, secret token.Secret) (access.KeyID, error)
	// Digest is the keyed digest under which refused keys are remembered. Required.
	Digest func(text string) [32]byte
	// Rate is how many questions there may be. Required.
	Rate access.Rate
	// Negative is how long a refusal is remembered; 0 is a minute.
	Negative time.Duration
	// Timeout of a question; 0 is MaxTimeout, which is also the most.
	Timeout time.Duration
	// Concurrent is how many questions are asked at once; 0 is 16, which is also
	// the most.
	Concurrent int
	// Until is when learning ends; zero is never.
	Until time.Time
	// Transport carries the questions; nil is http.DefaultTransport.
	Transport http.RoundTripper
	// OnError is told why a question came to nothing: the backend cannot be
	// reached, or its answer names no tenant. It may be nil.
	OnError func(error)
	// Now tells the time; nil is time.Now.
	Now func() time.Time
}

// Learner asks. It is safe for concurrent use.
type Learner struct {
	o      Options
	client *http.Client
	rate   *rate.Limiter
	slots  chan struct{}

	mu       sync.Mutex
	asking   map[[32]byte]*question
	refused  *negatives
	shutdown context.CancelFunc
	life     context.Context
}

// question is one that is being asked. The result is set when done is closed.
type question struct {
	done chan struct{}
	result
}

type result struct {
	id       access.KeyID
	ok, busy bool
}

// New returns a Learner. Close it to end its questions. Errors: what is missing
// or out of bounds in o.
func New(o Options) (*Learner, error) {
	switch {
	case o.Request == nil || o.Tenant == nil || o.Adopt == nil || o.Digest == nil:
		return nil, errors.New("learn: a function is missing")
	case o.Timeout < 0 || o.Timeout > MaxTimeout:
		return nil, fmt.Errorf("learn: a timeout is at most %s", MaxTimeout)
	case o.Concurrent < 0 || o.Concurrent > maxConcurrent:
		return nil, fmt.Errorf("learn: at most %d questions at once", maxConcurrent)
	case o.Negative < 0:
		return nil, errors.New("learn: a refusal cannot be remembered for less than no time")
	}
	if err := o.Rate.Validate(); err != nil {
		return nil, fmt.Errorf("learn: %w", err)
	}
	o.defaults()
	l := &Learner{o: o, rate: rate.NewLimiter(rate.Every(o.Rate.Interval()), int(o.Rate.Burst)),
		slots: make(chan struct{}, o.Concurrent), asking: make(map[[32]byte]*question), refused: newNegatives(o.Negative, maxNegatives)}
	l.client = &http.Client{Transport: o.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	l.life, l.shutdown = context.WithCancel(context.Background())
	return l, nil
}

func (o *Options) defaults() {
	if o.Timeout == 0 {
		o.Timeout = MaxTimeout
	}
	if o.Concurrent == 0 {
		o.Concurrent = maxConcurrent
	}
	if o.Negative == 0 {
		o.Negative = time.Minute
	}
	if o.Transport == nil {
		o.Transport = http.DefaultTransport
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.OnError == nil {
		o.OnError = func(error) {}
	}
}

// Close ends the questions that are being asked; later ones are busy.
func (l *Learner) Close() { l.shutdown() }

// Ask puts a key to the backend, unless it refused the key a short while ago. ok
// is whether the key is known from now on, under id; busy is that nobody can
// tell now: too many questions, no answer, or the end of ctx. Callers with the
// same key share one question, which goes on when they leave.
func (l *Learner) Ask(ctx context.Context, secret token.Secret) (id access.KeyID, ok, busy bool) {
	text := secret.Reveal()
	now := l.o.Now()
	if !askable(text) || !l.o.Until.IsZero() && !now.Before(l.o.Until) {
		return id, false, false
	}
	q, answered := l.join(l.o.Digest(text), now, secret)
	if q == nil {
		return id, false, !answered
	}
	select {
	case <-q.done:
		return q.id, q.ok, q.busy
	case <-ctx.Done():
		return id, false, true
	}
}

// join returns the question about a key, a new one if there is none. Without a
// question, answered says that the answer is no; else it cannot be asked now.
func (l *Learner) join(digest [32]byte, now time.Time, secret token.Secret) (q *question, answered bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refused.has(digest, now) {
		return nil, true
	}
	if q := l.asking[digest]; q != nil {
		return q, false
	}
	if l.life.Err() != nil {
		return nil, false
	}
	select {
	case l.slots <- struct{}{}:
	default:
		return nil, false
	}
	if !l.rate.AllowN(now, 1) {
		<-l.slots
		return nil, false
	}
	q = &question{done: make(chan struct{}), result: result{busy: true}}
	l.asking[digest] = q
	go l.run(digest, q, secret)
	return q, false
}

func (l *Learner) run(digest [32]byte, q *question, secret token.Secret) {
	defer func() {
		l.mu.Lock()
		if !q.ok && !q.busy {
			l.refused.add(digest, l.o.Now())
		}
		delete(l.asking, digest)
		l.mu.Unlock()
		close(q.done)
		<-l.slots
	}()
	ctx, cancel := context.WithTimeout(l.life, l.o.Timeout)
	defer cancel()
	r, err := l.ask(ctx, secret)
	if err != nil {
		l.o.OnError(cleanse(err, secret))
	}
	q.result = r
}

// ask asks the backend and adopts what it accepts. Only an answer of 3xx or 4xx,
// but 408, 425 and 429, says that it does not know the key.
func (l *Learner) ask(ctx context.Context, secret token.Secret) (result, error) {
	busy := result{busy: true}
	req, err := l.o.Request(ctx, secret)
	if err != nil {
		return busy, fmt.Errorf("making the check request: %w", err)
	}
	resp, err := l.client.Do(req.WithContext(ctx))
	if err != nil {
		return busy, fmt.Errorf("asking the backend: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxAnswer+1))
	if err != nil {
		return busy, fmt.Errorf("reading the backend's answer: %w", err)
	}
	switch s := resp.StatusCode; {
	case s == http.StatusRequestTimeout || s == http.StatusTooEarly || s == http.StatusTooManyRequests:
		return busy, fmt.Errorf("the backend answered %d", s)
	case s >= 300 && s < 500: // a redirect leads to a login page
		return result{}, nil
	case s < 200 || s >= 300:
		return busy, fmt.Errorf("the backend answered %d: want 2xx for a key it knows and 4xx for one that it does not", s)
	case len(body) > MaxAnswer:
		return result{}, fmt.Errorf("the backend's answer is longer than %d bytes", MaxAnswer)
	}
	tenant, ok := l.o.Tenant(resp.Header, body)
	if !ok || access.CheckTenantID(tenant) != nil {
		return result{}, errors.New("the backend accepted a key, but its answer names no tenant, or none whose id is allowed")
	}
	id, err := l.o.Adopt(ctx, tenant, secret)
	if err != nil {
		return busy, fmt.Errorf("adopting a key for tenant %s: %w", tenant, err)
	}
	return result{id: id, ok: true}, nil
}

// askable reports whether text can be a key: 8 to token.MaxLen visible ASCII
// characters.
func askable(text string) bool {
	if len(text) < 8 || len(text) > token.MaxLen {
		return false
	}
	for i := range len(text) {
		if text[i] <= ' ' || text[i] >= 0x7f {
			return false
		}
	}
	return true
}

// cleanse returns an error without the URL of the question, and says less if the
// key is in the rest.
func cleanse(err error, secret token.Secret) error {
	text := err.Error()
	if u, ok := errors.AsType[*url.Error](err); ok {
		text = "asking the backend: " + u.Err.Error()
	}
	if strings.Contains(text, secret.Reveal()) {
		text = "asking the backend failed"
	}
	return errors.New(text)
}
