package index

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// numAlgs is one more than the last algorithm of digests. A record of another
// one is found by its id alone.
const numAlgs = token.AlgImported + 1

// CountAlg returns the number of keys whose digest is of an algorithm, 1 to 3.
// It reads one word.
func (x *Index) CountAlg(alg uint8) int64 { return x.algCount[alg%numAlgs].Load() }

// HasSHA256 reports whether any secret, present or previous, is known by its
// plain SHA-256: if not, LookupSHA256 is not worth the hash. It reads one word.
func (x *Index) HasSHA256() bool { return x.sumCount.Load() != 0 }

// LookupSHA256 returns the key whose present secret is known by a plain
// SHA-256, or its previous one, in which case previous.Record is set too; both
// are nil if there is none. digest must have been made here from a secret:
// never from what a client calls a digest. It takes no lock and does not
// allocate.
func (x *Index) LookupSHA256(digest *[32]byte) (r *Record, previous Previous) {
	p := x.sums.probe(digestTag(digest))
	for {
		i, ok := p.next()
		if !ok {
			previous = x.lookupPrevious(digest, token.AlgSHA256)
			return previous.Record, previous
		}
		if r := x.records.at(i); r.Alg() == token.AlgSHA256 && r.has(digest) {
			return r, Previous{}
		}
	}
}

// Find returns the id of the key with a digest, of its present secret or its
// previous one, whichever of AlgHMAC and the plain SHA-256 it is of. It waits
// for a change that is being applied. It is for management: a gate must tell the
// two apart.
func (x *Index) Find(digest [32]byte) (access.KeyID, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	r := x.Lookup(&digest)
	if r == nil {
		r = x.LookupPrevious(&digest).Record
	}
	if r == nil {
		r, _ = x.LookupSHA256(&digest)
	}
	if r == nil || !r.alive() {
		return access.KeyID{}, false
	}
	return r.ID, true
}

// Moves returns a number that is odd while a secret, present or previous, is
// going from one algorithm to another, and another one after each such move. A
// reader that found a secret under no algorithm looks again, in Still, if
// Moved(the number before it began).
func (x *Index) Moves() uint32 { return x.moves.Load() }

// Moved reports whether a secret may have gone from one algorithm to another
// since Moves returned m.
func (x *Index) Moved(m uint32) bool { return m&1 != 0 || x.moves.Load() != m }

// Still runs fn while no change is applied, so that all that fn finds is of one
// moment. It waits for a change that is being applied. fn must be short, and of
// the methods of x call only those that take no lock.
func (x *Index) Still(fn func()) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	fn()
}

// moving reports whether a change takes a secret of record i, known under alg,
// from one algorithm to another.
func (x *Index) moving(i uint32, alg uint8, k *access.KeyHead) bool {
	if alg != k.Alg {
		return true
	}
	n, ok := x.priors.of[i]
	return ok && k.Previous != nil && uint8(x.priors.at(n).alg.Load()) != k.Previous.Alg
}

// countSum counts a secret that is known by its SHA-256.
func (x *Index) countSum(alg uint8, by int64) {
	if alg == token.AlgSHA256 {
		x.sumCount.Add(by)
	}
}

// tableOf returns the table in which digests of an algorithm are found; nil if
// in none.
func (x *Index) tableOf(alg uint8) *table {
	switch alg {
	case token.AlgHMAC:
		return &x.digests
	case token.AlgSHA256:
		return &x.sums
	}
	return nil
}

// imported finds the keys that only a hash in the store knows, by what their
// secret starts with.
type imported struct {
	mu      sync.RWMutex
	byHint  map[string]*hinted
	places  map[uint32]place // by record number
	lengths []int            // of the hints, the longest first
	perLen  map[int]int      // hints of each length
	puts    atomic.Uint64
}

// hinted is the keys of one hint.
type hinted struct {
	hint    string
	records []uint32
}

type place struct {
	in *hinted
	at int
}

// ImportedCandidates appends to ids those of at most max keys that the text may
// be the secret of, those with the longest hint first, in no order otherwise.
func (x *Index) ImportedCandidates(ids []access.KeyID, text string, max int) []access.KeyID {
	m := &x.imported
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, n := range m.lengths {
		if n > len(text) {
			continue
		}
		h := m.byHint[text[:n]]
		if h == nil {
			continue
		}
		for _, i := range h.records {
			if len(ids) == max {
				return ids
			}
			ids = append(ids, x.records.at(i).ID)
		}
	}
	return ids
}

// ImportedPuts returns a number that changes whenever such a key is new or
// different: what was found out about a text before may be otherwise now.
func (x *Index) ImportedPuts() uint64 { return x.imported.puts.Load() }

// put enters a record, or moves it to another hint.
func (m *imported) put(i uint32, hint string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.puts.Add(1)
	if p, ok := m.places[i]; ok {
		if p.in.hint == hint {
			return
		}
		m.remove(i)
	}
	h := m.byHint[hint]
	if h == nil {
		h = &hinted{hint: strings.Clone(hint)}
		m.byHint[h.hint] = h
		m.measure(len(hint), 1)
	}
	m.places[i] = place{h, len(h.records)}
	h.records = append(h.records, i)
}

// drop takes a record out; one that is not there is passed over.
func (m *imported) drop(i uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.remove(i)
}

func (m *imported) remove(i uint32) {
	p, ok := m.places[i]
	if !ok {
		return
	}
	delete(m.places, i)
	last := len(p.in.records) - 1
	if moved := p.in.records[last]; p.at != last {
		p.in.records[p.at] = moved
		m.places[moved] = p
	}
	p.in.records = p.in.records[:last]
	if last == 0 {
		delete(m.byHint, p.in.hint)
		m.measure(len(p.in.hint), -1)
	}
}

// measure counts a hint more or less of a length.
func (m *imported) measure(length, by int) {
	before := len(m.perLen)
	if m.perLen[length] += by; m.perLen[length] == 0 {
		delete(m.perLen, length)
	}
	if len(m.perLen) == before {
		return
	}
	m.lengths = slices.Sorted(maps.Keys(m.perLen))
	slices.Reverse(m.lengths)
}
