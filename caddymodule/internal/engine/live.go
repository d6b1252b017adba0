package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/keytoll/keytoll/caddymodule/internal/usage"
)

// liveSuffix is added to the place of the store. The file holds what was
// counted and is not in the store yet, as of the last second: what the end of
// the process would cost otherwise. It is not synced: a power cut may take it.
const liveSuffix = ".usage"

// openUsage opens the usage of the store, with what the last process left.
func (e *Engine) openUsage(ctx context.Context, keep usage.Retention) (*usage.Recorder, error) {
	path := e.place + liveSuffix
	left, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		e.meteringError(fmt.Errorf("reading the usage of the last minute: %w", err))
	}
	rec, err := usage.Open(ctx, usage.Options{Storage: usageStorage{e.Store}, Retain: keep, Live: left, Now: e.clock, OnError: e.meteringError})
	if err != nil {
		return nil, fmt.Errorf("opening usage: %w", err)
	}
	removeLive(path)
	return rec, nil
}

func removeLive(path string) { _ = os.Remove(path) }

// live keeps the file up to date.
type live struct {
	path string
	last []byte // that is in the file; empty: there is none
	next []byte
}

// second writes what is to be written now. A file that cannot be written is
// removed: one that is too old must not be taken for the last second's.
func (l *live) second(rec *usage.Recorder) error {
	l.next = rec.Live(l.next[:0])
	if bytes.Equal(l.next, l.last) {
		return nil
	}
	l.last, l.next = l.next, l.last
	if len(l.last) == 0 {
		removeLive(l.path)
		return nil
	}
	tmp := l.path + ".new"
	err := os.WriteFile(tmp, l.last, 0o600)
	if err == nil {
		err = os.Rename(tmp, l.path)
	}
	if err != nil {
		removeLive(tmp)
		removeLive(l.path)
		l.last = l.last[:0]
		return fmt.Errorf("keeping the usage of this minute: %w", err)
	}
	return nil
}

// keepLive keeps the file up to date until the engine stops: each second, and
// with so many series that this would take more than a hundredth of a processor,
// less often.
func (e *Engine) keepLive(rec *usage.Recorder) {
	l := live{path: e.place + liveSuffix}
	next := time.NewTimer(time.Second)
	defer next.Stop()
	for {
		select {
		case <-next.C:
			start := time.Now()
			if err := l.second(rec); err != nil {
				e.meteringError(err)
			}
			next.Reset(max(time.Second, 100*time.Since(start)))
		case <-e.stop:
			return
		}
	}
}
