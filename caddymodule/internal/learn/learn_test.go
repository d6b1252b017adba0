package learn

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// backend knows keys by their text.
type backend struct {
	*httptest.Server
	asked  atomic.Int32
	answer atomic.Value // http.HandlerFunc
}

func newBackend(t *testing.T, answer http.HandlerFunc) *backend {
	b := new(backend)
	b.answer.Store(answer)
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.asked.Add(1)
		b.answer.Load().(http.HandlerFunc)(w, r)
	}))
	t.Cleanup(b.Close)
	return b
}

// known accepts one key.
func known(key string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Api-Key") != key {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, `{"data":{"org":"acme"}}`)
	}
}

type world struct {
	o       Options
	mu      sync.Mutex
	now     time.Time
	adopted map[string]string
	errs    []string
}

func newWorld(b *backend) *world {
	w := &world{now: time.Unix(1_700_000_000, 0), adopted: map[string]string{}}
	tenant, err := TenantFrom("/data/org")
	if err != nil {
		panic(err)
	}
	w.o = Options{
		Request: func(ctx context.Context, s token.Secret) (*http.Request, error) {
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, b.URL+"/whoami", nil)
			if err == nil {
				r.Header.Set("X-Api-Key", s.Reveal())
			}
			return r, err
		},
		Tenant: tenant,
		Adopt: func(_ context.Context, tenant string, s token.Secret) (access.KeyID, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.adopted[s.Reveal()] = tenant
			return access.KeyID([]byte("0123456789abcdef")), nil
		},
		Digest:  func(s string) [32]byte { return sha256.Sum256([]byte(s)) },
		Rate:    access.Rate{Requests: 1000, Burst: 1000, Window: time.Second},
		Now:     func() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.now },
		OnError: func(err error) { w.mu.Lock(); defer w.mu.Unlock(); w.errs = append(w.errs, err.Error()) },
	}
	return w
}

func (w *world) pass(d time.Duration) { w.mu.Lock(); defer w.mu.Unlock(); w.now = w.now.Add(d) }

func (w *world) learner(t *testing.T) *Learner {
	l, err := New(w.o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

const key = "sk_live_0123456789"

func ask(t *testing.T, l *Learner, text string) string {
	t.Helper()
	id, ok, busy := l.Ask(t.Context(), token.Wrap(text))
	switch {
	case ok && !busy && id != access.KeyID{}:
		return "ok"
	case busy && !ok && id == access.KeyID{}:
		return "busy"
	case !ok && !busy && id == access.KeyID{}:
		return "no"
	}
	t.Fatalf("%v %v %v make no sense", id, ok, busy)
	return ""
}

func TestAdoptsAndRemembersRefusals(t *testing.T) {
	b := newBackend(t, known(key))
	w := newWorld(b)
	l := w.learner(t)
	if got := ask(t, l, key); got != "ok" || w.adopted[key] != "acme" {
		t.Errorf("a known key: %s, adopted %v", got, w.adopted)
	}
	for range 3 {
		if got := ask(t, l, "made-up-key"); got != "no" {
			t.Errorf("an unknown key: %s", got)
		}
	}
	if n := b.asked.Load(); n != 2 {
		t.Errorf("asked %d times, want 2", n)
	}
	w.pass(time.Minute)
	b.answer.Store(known("made-up-key"))
	if got := ask(t, l, "made-up-key"); got != "ok" {
		t.Errorf("a minute later: %s", got)
	}
	if len(w.errs) != 0 {
		t.Error(w.errs)
	}
}

// What cannot be a key is not put to the backend.
func TestNotAskable(t *testing.T) {
	b := newBackend(t, known(key))
	w := newWorld(b)
	w.o.Until = w.now.Add(time.Hour)
	l := w.learner(t)
	for _, text := range []string{"", "short", "with a space", "with\r\nX-Evil: 1", "ünïcödé-kéy", strings.Repeat("k", token.MaxLen+1)} {
		if got := ask(t, l, text); got != "no" {
			t.Errorf("%q: %s", text, got)
		}
	}
	w.pass(time.Hour)
	if got := ask(t, l, key); got != "no" || b.asked.Load() != 0 {
		t.Errorf("after the end: %s, asked %d times", got, b.asked.Load())
	}
}

func TestAnswers(t *testing.T) {
	write := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "/whoami?again")
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		}
	}
	good := `{"data":{"org":"acme"}}`
	tests := []struct {
		name   string
		answer http.HandlerFunc
		want   string
		says   string // of the error
	}{
		{"201", write(201, good), "ok", ""},
		{"401", write(401, good), "no", ""},
		{"403", write(403, good), "no", ""},
		{"404", write(404, good), "no", ""},
		{"302", write(302, good), "no", ""},
		{"307", write(307, good), "no", ""},
		{"429", write(429, good), "busy", "429"},
		{"500", write(500, good), "busy", "500"},
		{"503", write(503, good), "busy", "503"},
		{"no tenant", write(200, `{"data":{}}`), "no", "names no tenant"},
		{"no JSON", write(200, `<html>`), "no", "names no tenant"},
		{"bad tenant", write(200, `{"data":{"org":"../etc"}}`), "no", "names no tenant"},
		{"empty tenant", write(200, `{"data":{"org":""}}`), "no", "names no tenant"},
		{"two values", write(200, good+good), "no", "names no tenant"},
		{"longest", write(200, strings.Repeat(" ", MaxAnswer-len(good))+good), "ok", ""},
		{"too long", write(200, strings.Repeat(" ", MaxAnswer-len(good)+1)+good), "no", "longer than"},
		{"cut off", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, good)
		}, "busy", "reading the backend's answer"},
		{"hung up", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "busy", "asking the backend"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBackend(t, tt.answer)
			w := newWorld(b)
			l := w.learner(t)
			if got := ask(t, l, key); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
			if tt.says == "" && len(w.errs) != 0 || tt.says != "" && (len(w.errs) != 1 || !strings.Contains(w.errs[0], tt.says)) {
				t.Errorf("errors %q, want %q", w.errs, tt.says)
			}
			if (len(w.adopted) == 1) != (tt.want == "ok") {
				t.Errorf("adopted %v", w.adopted)
			}
			// Only a refusal is remembered.
			b.answer.Store(known(key))
			before := b.asked.Load()
			if got := ask(t, l, key); (got == "no") != (tt.want == "no") || (b.asked.Load() == before) != (tt.want == "no") {
				t.Errorf("then: %s", got)
			}
		})
	}
}

// Callers with one key share a question, and one that leaves does not end it.
func TestOneQuestion(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	b := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Api-Key") != key {
			t.Error("another key")
		}
		once.Do(func() { close(arrived) }) // who comes after the answer asks again
		<-release
		fmt.Fprint(w, `{"data":{"org":"acme"}}`)
	})
	w := newWorld(b)
	l := w.learner(t)
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan bool)
	go func() {
		_, _, busy := l.Ask(ctx, token.Wrap(key))
		left <- busy
	}()
	<-arrived
	leave()
	if !<-left {
		t.Error("a caller that leaves is not told that nobody knows")
	}
	const n = 20
	results := make(chan bool, n)
	var started sync.WaitGroup
	for range n {
		started.Add(1)
		go func() {
			started.Done()
			_, ok, _ := l.Ask(t.Context(), token.Wrap(key))
			results <- ok
		}()
	}
	started.Wait()
	l.mu.Lock()
	if len(l.asking) != 1 {
		t.Error("the question ended with its first caller")
	}
	l.mu.Unlock()
	close(release)
	for range n {
		if !<-results {
			t.Error("a caller was not told the answer")
		}
	}
}

func TestBounds(t *testing.T) {
	release := make(chan struct{})
	arrived := make(chan struct{}, 10)
	b := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-release
		w.WriteHeader(401)
	})
	w := newWorld(b)
	w.o.Concurrent = 2
	w.o.Rate = access.Rate{Requests: 4, Burst: 4, Window: time.Minute}
	l := w.learner(t)
	results := make(chan string, 2)
	for i := range 2 {
		go func() { results <- ask(t, l, fmt.Sprint("made-up-key-", i)) }()
		<-arrived
	}
	if got := ask(t, l, "made-up-key-2"); got != "busy" {
		t.Errorf("a third question at once: %s", got)
	}
	close(release)
	if a, b := <-results, <-results; a != "no" || b != "no" {
		t.Errorf("the first two: %s, %s", a, b)
	}
	// A slot is free once the question is over: the results came before that.
	l.slots <- struct{}{}
	l.slots <- struct{}{}
	<-l.slots
	<-l.slots
	var got []string
	for i := range 3 {
		got = append(got, ask(t, l, fmt.Sprint("another-key-", i)))
		l.slots <- struct{}{}
		l.slots <- struct{}{}
		<-l.slots
		<-l.slots
	}
	if fmt.Sprint(got) != "[no no busy]" {
		t.Errorf("with two questions of the rate left: %v", got)
	}
	w.pass(15 * time.Second)
	if got := ask(t, l, "another-key-2"); got != "no" {
		t.Errorf("when one is regained: %s", got)
	}
}

func TestClose(t *testing.T) {
	arrived := make(chan struct{})
	b := newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
	})
	w := newWorld(b)
	l := w.learner(t)
	result := make(chan string)
	go func() { result <- ask(t, l, key) }()
	<-arrived
	l.Close()
	if got := <-result; got != "busy" {
		t.Errorf("the question under way: %s", got)
	}
	if got := ask(t, l, "another-key"); got != "busy" {
		t.Errorf("a later one: %s", got)
	}
}

// A backend that does not answer costs the timeout and no more.
func TestTimeout(t *testing.T) {
	gone := make(chan struct{})
	b := newBackend(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done(); close(gone) })
	w := newWorld(b)
	w.o.Timeout = 20 * time.Millisecond
	l := w.learner(t)
	if got := ask(t, l, key); got != "busy" {
		t.Errorf("without an answer: %s", got)
	}
	<-gone
}

// Whatever goes wrong, no error holds the key.
func TestErrorsWithoutKey(t *testing.T) {
	b := newBackend(t, known(key))
	for name, change := range map[string]func(*Options){
		"request": func(o *Options) {
			o.Request = func(context.Context, token.Secret) (*http.Request, error) { return nil, errors.New("about " + key) }
		},
		"url": func(o *Options) {
			o.Request = func(ctx context.Context, s token.Secret) (*http.Request, error) {
				return http.NewRequestWithContext(ctx, "GET", "http://127.0.0.1:1/?key="+s.Reveal(), nil)
			}
		},
		"adopt": func(o *Options) {
			o.Adopt = func(context.Context, string, token.Secret) (access.KeyID, error) {
				return access.KeyID{}, errors.New("about " + key)
			}
		},
		"tenant": func(o *Options) { o.Tenant = func(http.Header, []byte) (string, bool) { return key + "!", true } },
	} {
		w := newWorld(b)
		change(&w.o)
		if got := ask(t, w.learner(t), key); got == "ok" || len(w.errs) != 1 || strings.Contains(w.errs[0], key) {
			t.Errorf("%s: %s, errors %q", name, got, w.errs)
		}
	}
}

func TestNew(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"no Adopt":     func(o *Options) { o.Adopt = nil },
		"no rate":      func(o *Options) { o.Rate = access.Rate{} },
		"long timeout": func(o *Options) { o.Timeout = MaxTimeout + 1 },
		"many":         func(o *Options) { o.Concurrent = 17 },
		"negative":     func(o *Options) { o.Negative = -1 },
	} {
		w := newWorld(nil)
		change(&w.o)
		if _, err := New(w.o); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestNegativesAreBounded(t *testing.T) {
	n := newNegatives(time.Minute, 10)
	now := time.Unix(1_700_000_000, 0)
	for i := range 1000 {
		d := sha256.Sum256([]byte{byte(i), byte(i >> 8)})
		n.add(d, now)
		if !n.has(d, now) || len(n.young)+len(n.old) > 20 {
			t.Fatalf("after %d: %d young, %d old", i, len(n.young), len(n.old))
		}
	}
	d := sha256.Sum256([]byte("x"))
	n.add(d, now)
	if !n.has(d, now.Add(time.Minute-1)) || n.has(d, now.Add(time.Minute)) {
		t.Error("a refusal does not last as long as said")
	}
}

func TestTenantFrom(t *testing.T) {
	header := http.Header{"X-Org": {"acme"}, "X-Two": {"a", "b"}}
	body := `{"org":{"id":"acme","no":17,"big":-1,"f":1.5,"ok":true},"list":[{"id":"a"},{"id":"b"}],"a/b":{"m~n":"x"},"":"empty","null":null}`
	tests := []struct{ where, want string }{
		{"header:X-Org", "acme"}, {"header:x-org", "acme"}, {"header:X-Two", "-"}, {"header:X-None", "-"},
		{"/org/id", "acme"}, {"/org/no", "17"}, {"/org/big", "-"}, {"/org/f", "-"}, {"/org/ok", "-"}, {"/org", "-"}, {"/null", "-"},
		{"/list/1/id", "b"}, {"/list/2/id", "-"}, {"/list/01/id", "-"}, {"/list/-/id", "-"}, {"/a~1b/m~0n", "x"}, {"/", "empty"}, {"/org/id/x", "-"}, {"/none", "-"},
		{"", "!"}, {"org.id", "!"}, {"/a~2", "!"}, {"/a~", "!"}, {"header:", "!"}, {"header:X Y", "!"},
	}
	for _, tt := range tests {
		f, err := TenantFrom(tt.where)
		if err != nil {
			if tt.want != "!" {
				t.Errorf("%s: %v", tt.where, err)
			}
			continue
		}
		got, ok := f(header, []byte(body))
		if !ok {
			got = "-"
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", tt.where, got, tt.want)
		}
	}
}
