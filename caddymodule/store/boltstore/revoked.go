package boltstore

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"slices"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// The file beside the database that holds what Bury was given, so that a
// database put back to an older state arms nothing anew. It has a magic and
// then entries of one size: number, digest, tag. Numbers only grow, and are the
// file's own: those of commits come up again after a database was put back. The
// bucket buried of the database holds the newest entry, which tells what the
// database knows of the file, and all that may not have reached the disk.
//
// After a power cut the file may lack any of what was appended within the last
// second, at its end or in the middle; the database has that and puts it there
// again. Thus something is lost only if that database is put back to an older
// state before it was ever opened again.
const (
	revokedSuffix = ".revoked"
	revokedMagic  = "ktrevok1"
	revokedLen    = 8 + 32 + tagLen
)

var revokedName = []byte("revoked") // as a bucket, for the tags

// entry is one digest that must never let a request in again, or the mark of a
// key.
type entry struct {
	seq    uint64
	digest [32]byte
}

// keyMark stands for all secrets of a key that is gone for good, also those by
// which an older state of the database knew it.
func keyMark(id access.KeyID) (mark [32]byte) {
	copy(mark[:], "key without end:")
	copy(mark[16:], id[:])
	return mark
}

func (e entry) appendTo(b []byte, t *tagger) []byte {
	b = binary.BigEndian.AppendUint64(b, e.seq)
	b = append(b, e.digest[:]...)
	return append(b, t.tag(revokedName, b[len(b)-40:len(b)-32], b[len(b)-32:])...)
}

func readEntry(b []byte, t *tagger) (e entry, ok bool) {
	e = entry{binary.BigEndian.Uint64(b), [32]byte(b[8:])}
	return e, bytes.Equal(t.tag(revokedName, b[:8], b[8:40]), b[40:revokedLen])
}

// readRevoked returns the entries of the file at path and the length of the
// part that holds them; what follows is an entry that was cut off in the middle
// of its writing. There are none if there is no file.
func readRevoked(path string, t *tagger) (entries []entry, size int64, err error) {
	entries, size, _, err = mendRevoked(path, t, nil)
	return entries, size, err
}

// mendRevoked is readRevoked for who has the entries that the database kept: it
// puts those in the place of entries that the file lost. It reports whether it
// had to; the file is to be replaced then.
func mendRevoked(path string, t *tagger, kept []entry) (entries []entry, size int64, mended bool, err error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, false, nil
	}
	if err != nil {
		return nil, 0, false, err
	}
	if n := min(len(b), len(revokedMagic)); string(b[:n]) != revokedMagic[:n] {
		return nil, 0, false, revokedDamaged(path)
	} else if n < len(revokedMagic) {
		return nil, 0, false, nil
	}
	var last uint64
	for b = b[len(revokedMagic):]; len(b) >= revokedLen; b = b[revokedLen:] {
		e, ok := readEntry(b, t)
		if !ok {
			break
		}
		if e.seq <= last {
			return nil, 0, false, revokedDamaged(path)
		}
		last, entries = e.seq, append(entries, e)
	}
	// A power cut leaves a torn entry, and zeros where others were to be.
	if len(b) > revokedLen && len(bytes.Trim(b[revokedLen:], "\x00")) > 0 {
		rest := bridge(b, last, kept, t)
		if rest == nil {
			return nil, 0, false, revokedDamaged(path)
		}
		entries, mended = append(entries, rest...), true
	}
	return entries, int64(len(revokedMagic) + len(entries)*revokedLen), mended, nil
}

// bridge returns the entries that b, a part of the file that starts with a bad
// one, is to hold, or nil if that is not known. A power cut may lose any page of
// what was not on the disk for sure, and keep later ones. The database kept all
// of that: from the first bad entry on, its entries and the file's are the same,
// one by one.
func bridge(b []byte, last uint64, kept []entry, t *tagger) (rest []entry) {
	at, _ := slices.BinarySearchFunc(kept, last+1, func(e entry, seq uint64) int { return cmp.Compare(e.seq, seq) })
	kept = kept[at:]
	for ; len(b) >= revokedLen && len(kept) > 0; b, kept = b[revokedLen:], kept[1:] {
		if e, ok := readEntry(b, t); ok && e != kept[0] {
			return nil
		}
		rest = append(rest, kept[0])
	}
	if len(b) >= revokedLen && len(bytes.Trim(b, "\x00")) > 0 {
		return nil
	}
	return rest
}

func revokedDamaged(path string) error {
	return fail(store.ErrDamaged, "the list of revocations %s is damaged or was made with another master key: put a backup of it back; to go on without it, delete it: an older database put back later may then let revoked keys in", path)
}

// divergence is in what the file and the database differ.
type divergence struct {
	replay  map[[32]byte]struct{} // what the database does not know
	newest  entry                 // of the file
	missing []entry               // what the file lacks
}

// diverge compares the entries of the file with those the database kept.
func diverge(file, kept []entry) *divergence {
	bySeq := make(map[uint64][32]byte, len(kept))
	for _, e := range kept {
		bySeq[e.seq] = e.digest
	}
	common := len(file) // number of entries up to the last that both have
	for ; common > 0; common-- {
		e := file[common-1]
		if d, ok := bySeq[e.seq]; ok && d == e.digest {
			break
		}
	}
	d := &divergence{replay: map[[32]byte]struct{}{}}
	var since uint64
	if common > 0 {
		since = file[common-1].seq
	}
	for _, e := range file[common:] {
		d.replay[e.digest] = struct{}{}
		d.newest = e
	}
	for _, e := range kept {
		if _, ok := d.replay[e.digest]; !ok && e.seq > since {
			d.missing = append(d.missing, e)
		}
	}
	return d
}
