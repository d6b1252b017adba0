package seal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/internal/seal"
)

var (
	aad   = []byte("keytoll data key v1\x04acme")
	first = seal.NewWrapper("master:01", [32]byte{1})
	later = seal.NewWrapper("master:02", [32]byte{2})
)

// fresh returns a data key and its wrapped form.
func fresh(t testing.TB, k *seal.Keyring) (*seal.DataKey, seal.Wrapped) {
	t.Helper()
	d, w, err := k.New(context.Background(), aad)
	if err != nil {
		t.Fatal(err)
	}
	return d, w
}

func sealed(t testing.TB, d *seal.DataKey, aad, plain string) []byte {
	t.Helper()
	b, err := d.Seal([]byte(aad), []byte(plain))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDataKey(t *testing.T) {
	k := seal.NewKeyring(first)
	d, w := fresh(t, k)
	if w.Wrapper != "master:01" || k.Primary() != "master:01" {
		t.Errorf("wrapped by %q", w.Wrapper)
	}
	value := sealed(t, d, "acme/elevenlabs", "a provider key")
	if bytes.Contains(value, []byte("provider key")) || len(value) != len("a provider key")+33 {
		t.Errorf("sealed %q", value)
	}
	if bytes.Equal(value, sealed(t, d, "acme/elevenlabs", "a provider key")) {
		t.Error("sealed twice alike")
	}
	again, err := k.Open(t.Context(), w, aad)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := again.Open([]byte("acme/elevenlabs"), value); err != nil || string(got) != "a provider key" {
		t.Errorf("opened %q, %v", got, err)
	}
	for i := range value {
		value[i] ^= 1
		if got, err := again.Open([]byte("acme/elevenlabs"), value); !errors.Is(err, seal.ErrSealed) || got != nil {
			t.Errorf("byte %d changed: %q, %v", i, got, err)
		}
		value[i] ^= 1
	}
	for _, cut := range []int{0, 4, 5, 20, len(value) - 1} {
		if _, err := again.Open([]byte("acme/elevenlabs"), value[:cut]); !errors.Is(err, seal.ErrSealed) {
			t.Errorf("cut at %d: %v", cut, err)
		}
	}
	other, _ := fresh(t, k)
	for what, err := range map[string]error{
		"another record":   second(again.Open([]byte("acme/openai"), value)),
		"another data key": second(other.Open([]byte("acme/elevenlabs"), value)),
	} {
		if !errors.Is(err, seal.ErrSealed) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestWrapped(t *testing.T) {
	k := seal.NewKeyring(first)
	_, w := fresh(t, k)
	open := func(w seal.Wrapped, aad []byte) error { return second(k.Open(t.Context(), w, aad)) }
	if err := open(w, aad); err != nil {
		t.Fatal(err)
	}
	for i := range w.Bytes {
		w.Bytes[i] ^= 1
		if err := open(w, aad); !errors.Is(err, seal.ErrSealed) {
			t.Errorf("byte %d changed: %v", i, err)
		}
		w.Bytes[i] ^= 1
	}
	box, err := first.Wrap(t.Context(), []byte("no keyset"), aad)
	if err != nil {
		t.Fatal(err)
	}
	empty, _ := first.Wrap(t.Context(), nil, aad)
	for what, err := range map[string]error{
		"another tenant": open(w, []byte("keytoll data key v1\x04evil")),
		"no tenant":      open(w, nil),
		"cut":            open(seal.Wrapped{Wrapper: "master:01", Bytes: w.Bytes[:40]}, aad),
		"empty":          open(seal.Wrapped{Wrapper: "master:01"}, aad),
		"no keyset":      open(seal.Wrapped{Wrapper: "master:01", Bytes: box}, aad),
		"empty keyset":   open(seal.Wrapped{Wrapper: "master:01", Bytes: empty}, aad),
		"another key of that name": second(seal.NewKeyring(seal.NewWrapper("master:01", [32]byte{3})).
			Open(t.Context(), w, aad)),
	} {
		if !errors.Is(err, seal.ErrSealed) {
			t.Errorf("%s: %v", what, err)
		}
	}
	w.Wrapper = "master:09"
	if err := open(w, aad); !errors.Is(err, seal.ErrNoWrapper) || !strings.Contains(err.Error(), "master:09") {
		t.Errorf("unknown wrapper: %v", err)
	}
}

// Under the new key the old data keys open for as long as the old one is named.
func TestRotation(t *testing.T) {
	old, both, after := seal.NewKeyring(first), seal.NewKeyring(later, first, later), seal.NewKeyring(later)
	if got := both.Names(); !slices.Equal(got, []string{"master:02", "master:01"}) || both.Primary() != "master:02" {
		t.Errorf("names %q", got)
	}
	d, w := fresh(t, old)
	value := sealed(t, d, "r", "key")
	d, err := both.Open(t.Context(), w, aad)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := d.Open([]byte("r"), value); err != nil || string(got) != "key" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := after.Open(t.Context(), w, aad); !errors.Is(err, seal.ErrNoWrapper) {
		t.Errorf("the old key is gone: %v", err)
	}
	_, renewed := fresh(t, both)
	if _, err := after.Open(t.Context(), renewed, aad); err != nil {
		t.Errorf("made under the new key: %v", err)
	}
	if _, err := old.Open(t.Context(), renewed, aad); !errors.Is(err, seal.ErrNoWrapper) {
		t.Errorf("the old key opened a new data key: %v", err)
	}
}

// kms is a Wrapper far away.
type kms struct {
	seal.Wrapper
	fail  error
	block bool
}

func (k *kms) answer(ctx context.Context) error {
	if k.block {
		<-ctx.Done()
		return fmt.Errorf("kms: %w", ctx.Err())
	}
	return k.fail
}

func (k *kms) Wrap(ctx context.Context, plain, aad []byte) ([]byte, error) {
	if err := k.answer(ctx); err != nil {
		return nil, err
	}
	return k.Wrapper.Wrap(ctx, plain, aad)
}

func (k *kms) Unwrap(ctx context.Context, wrapped, aad []byte) ([]byte, error) {
	if err := k.answer(ctx); err != nil {
		return nil, err
	}
	return k.Wrapper.Unwrap(ctx, wrapped, aad)
}

// What a KMS that is down says is no reason to take a data key for a bad one.
func TestKMS(t *testing.T) {
	far := &kms{Wrapper: seal.NewWrapper("kms:one", [32]byte{7})}
	k := seal.NewKeyring(far, first)
	_, w := fresh(t, k)
	_, near := fresh(t, seal.NewKeyring(first))
	down := errors.New("503")
	try := func(ctx context.Context, want error) {
		t.Helper()
		_, _, err := k.New(ctx, aad)
		for doing, err := range map[string]error{"new": err, "open": second(k.Open(ctx, w, aad))} {
			if !errors.Is(err, want) || errors.Is(err, seal.ErrSealed) || !strings.Contains(err.Error(), "kms:one") {
				t.Errorf("%s: %v, want %v", doing, err, want)
			}
		}
	}
	far.fail = down
	try(t.Context(), down)
	far.block = true
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	try(ctx, context.Canceled)
	if _, err := k.Open(t.Context(), near, aad); err != nil {
		t.Errorf("wrapped by another, which answers: %v", err)
	}
	if _, err := k.Open(ctx, near, aad); !errors.Is(err, context.Canceled) {
		t.Errorf("nobody waits: %v", err)
	}
	far.block, far.fail = false, nil
	if _, err := k.Open(t.Context(), w, aad); err != nil {
		t.Errorf("back again: %v", err)
	}
	w.Bytes[3] ^= 1
	if _, err := k.Open(t.Context(), w, aad); !errors.Is(err, seal.ErrSealed) {
		t.Errorf("changed: %v", err)
	}
}

func TestManyAtOnce(t *testing.T) {
	k := seal.NewKeyring(later, first)
	d, w := fresh(t, k)
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			id, text := fmt.Appendf(nil, "record %d", i), fmt.Sprintf("key %d", i)
			for range 50 {
				value, err := d.Seal(id, []byte(text))
				mine, bad := k.Open(t.Context(), w, aad)
				if err = errors.Join(err, bad); err != nil {
					t.Error(err)
					return
				}
				if got, err := mine.Open(id, value); err != nil || string(got) != text {
					t.Errorf("%q, %v", got, err)
				}
			}
		})
	}
	group.Wait()
}

func BenchmarkDataKeyOpen(b *testing.B) {
	d, _ := fresh(b, seal.NewKeyring(first))
	value := sealed(b, d, "acme/elevenlabs/pk_0123456789abcdef", "sk_0123456789abcdef0123456789abcdef0123456789abcdef")
	id := []byte("acme/elevenlabs/pk_0123456789abcdef")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Open(id, value); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkKeyringOpen(b *testing.B) {
	k := seal.NewKeyring(first)
	_, w := fresh(b, k)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.Open(b.Context(), w, aad); err != nil {
			b.Fatal(err)
		}
	}
}
