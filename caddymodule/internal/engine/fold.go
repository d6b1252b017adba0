package engine

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/keytoll/keytoll/caddymodule/internal/counter"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// The blobs that hold the copy of the counters; see package counter.
const (
	blobFold   = "counters/fold"  // name 8 bytes, unix second, number of parts
	blobCounts = "counters/part/" // and the number of the part, in hex
)

const (
	foldLen     = 8 + 8 + 4
	slotsInPart = 256
	foldEvery   = 10 * time.Minute
)

// fold is the head of the copy of the counters in the store.
type fold struct {
	name  [8]byte
	at    int64 // unix second in which it was begun
	parts uint32
}

func partName(n uint32) string { return fmt.Sprintf("%s%06x", blobCounts, n) }

func (f *fold) encode() []byte {
	b := append(make([]byte, 0, foldLen), f.name[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(f.at))
	return binary.BigEndian.AppendUint32(b, f.parts)
}

// readFold returns the head of the copy, or nil if there is none.
func readFold(r store.Reader) (*fold, error) {
	b, err := r.Blob(blobFold)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err == nil && len(b) != foldLen {
		err = errors.New("the copy of the counters in the database has no head")
	}
	if err != nil {
		return nil, err
	}
	return &fold{[8]byte(b), int64(binary.BigEndian.Uint64(b[8:])), binary.BigEndian.Uint32(b[16:])}, nil
}

// folding makes the copies of one Metering.
type folding struct{ mu sync.Mutex }

// foldCounters copies what is counted into the store. When it returns, every
// count of before is there; what has not changed is not written again. A file
// with damaged counters is not copied.
func (e *Engine) foldCounters(ctx context.Context, m *Metering) error {
	if len(m.Counters.Recovery().Damaged) > 0 {
		return nil // the copy has the damaged ones as they were before
	}
	m.folding.mu.Lock()
	defer m.folding.mu.Unlock()
	next := fold{at: e.clock().Unix()}
	changed := make(map[uint32][]byte)
	var was *fold
	err := e.Store.View(ctx, func(r store.Reader) (err error) {
		if was, err = readFold(r); err != nil {
			return err
		}
		next.parts, err = changedParts(r, m.Counters, changed)
		return err
	})
	if err != nil {
		return fmt.Errorf("folding the counters: %w", err)
	}
	if was != nil && len(changed) == 0 && was.parts == next.parts && was.name == m.Counters.Fold() {
		return nil
	}
	if _, err := rand.Read(next.name[:]); err != nil {
		return err
	}
	if err := e.Store.Update(ctx, func(tx store.Tx) error { return putFold(tx, was, &next, changed) }); err != nil {
		return fmt.Errorf("folding the counters: %w", err)
	}
	return m.Counters.SetFold(next.name)
}

// changedParts collects the parts that are not as the store has them, and
// returns how many parts there are.
func changedParts(r store.Reader, file *counter.File, into map[uint32][]byte) (parts uint32, err error) {
	var values []counter.Value
	var text []byte
	for first := uint32(0); first < file.Extent(); first += slotsInPart {
		if values, err = file.Values(values[:0], first, slotsInPart); err != nil {
			return 0, err
		}
		text = counter.AppendValues(text[:0], values)
		old, err := r.Blob(partName(parts))
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return 0, err
		}
		if err != nil || !bytes.Equal(old, text) {
			into[parts] = append(make([]byte, 0, len(text)), text...)
		}
		parts++
	}
	return parts, nil
}

func putFold(tx store.Tx, was, next *fold, changed map[uint32][]byte) error {
	for n, text := range changed {
		if err := tx.PutBlob(partName(n), text); err != nil {
			return err
		}
	}
	if was != nil {
		for n := next.parts; n < was.parts; n++ {
			if err := tx.PutBlob(partName(n), nil); err != nil {
				return err
			}
		}
	}
	return tx.PutBlob(blobFold, next.encode())
}

// unfold brings a file of counters that is not the one that the store's copy
// was made of up to it. It says whether there is a copy and what it did, for
// the log, or nil.
func (e *Engine) unfold(ctx context.Context, file *counter.File) (there bool, told, err error) {
	var copied *fold
	raised := 0
	err = e.Store.View(ctx, func(r store.Reader) (err error) {
		copied, err = readFold(r)
		there = copied != nil
		if err != nil || !there || !file.Recovery().New && copied.name == file.Fold() {
			copied = nil
			return err
		}
		for n := range copied.parts {
			b, err := r.Blob(partName(n))
			if err != nil {
				return fmt.Errorf("part %d of the copy of the counters: %w", n, err)
			}
			if raised, err = adopt(file, b, raised); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || copied == nil {
		return there, nil, err
	}
	at := time.Unix(copied.at, 0).UTC().Format(time.RFC3339)
	switch {
	case raised == 0:
	case file.Recovery().New:
		told = fmt.Errorf("the file of counters was not there: credits and quotas go on as they were at %s; what was used since then is not counted", at)
	default:
		told = fmt.Errorf("the file of counters is not the one that the database goes with: %d counters that were higher in the database at %s are so again", raised, at)
	}
	return true, told, file.SetFold(copied.name)
}

func adopt(file *counter.File, part []byte, raised int) (int, error) {
	values, err := counter.ParseValues(part)
	if err != nil {
		return raised, err
	}
	for _, v := range values {
		changed, err := file.Adopt(v)
		if errors.Is(err, counter.ErrDamaged) {
			continue // it is refused
		}
		if err != nil {
			return raised, fmt.Errorf("putting back counters: %w", err)
		}
		if changed {
			raised++
		}
	}
	return raised, nil
}

// Backup writes a copy of the store with what is counted at its beginning.
func (e *Engine) Backup(ctx context.Context, w io.Writer) (int64, error) {
	e.metered.mu.Lock()
	m := e.metered.m
	e.metered.mu.Unlock()
	if m != nil {
		if err := e.foldCounters(ctx, m); err != nil {
			return 0, err
		}
	}
	return e.Store.Backup(ctx, w)
}

// CountersIn finds the copy of the counters among the blobs of a store, for
// those who check a backup.
type CountersIn struct {
	Counters int       // how many
	At       time.Time // when they were copied; zero if there are none
	parts    uint32
	head     fold
}

// Blob looks at one blob, and says what is wrong with it if it is of the copy.
func (c *CountersIn) Blob(name string, value []byte) error {
	switch {
	case name == blobFold:
		if len(value) != foldLen {
			return errors.New("the copy of the counters has no head")
		}
		c.head.at = int64(binary.BigEndian.Uint64(value[8:]))
		c.head.parts = binary.BigEndian.Uint32(value[16:])
		c.At = time.Unix(c.head.at, 0).UTC()
	case strings.HasPrefix(name, blobCounts):
		values, err := counter.ParseValues(value)
		c.Counters += len(values)
		c.parts++
		return err
	}
	return nil
}

// Missing says what is missing of the copy once all blobs were looked at, or
// returns nil.
func (c *CountersIn) Missing() error {
	if c.parts != c.head.parts {
		return fmt.Errorf("the copy of the counters has %d parts, and should have %d", c.parts, c.head.parts)
	}
	return nil
}
