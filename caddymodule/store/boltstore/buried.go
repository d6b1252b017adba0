package boltstore

import "fmt"

// Buried implements store.Reader. The first call reads the list of revocations
// whole, about a second for a million entries, while writers that bury wait.
// From then on the store holds each digest in memory, in a map: 32 bytes and
// the map's own, together 40 to 80. A store that is never asked holds none.
func (r *reader) Buried(digest [32]byte) (bool, error) { return r.s.side.buried(digest) }

// buried looks a digest up in the file and in what waits for it. At its opening
// the database gave the file all that it had and the file had not.
func (s *sideFile) buried(digest [32]byte) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		entries, _, err := readRevoked(s.path, s.tagger)
		if err != nil {
			return false, err
		}
		if int64(len(entries)) < s.count {
			return false, fmt.Errorf("the list of revocations %s lost entries while it was open: have %d, want %d", s.path, len(entries), s.count)
		}
		s.all = make(map[[32]byte]struct{}, len(entries)+len(s.waiting))
		s.know(entries)
		s.know(s.waiting)
	}
	_, ok := s.all[digest]
	return ok, nil
}

// know adds entries to the digests in memory, if they are there. The caller
// holds mu.
func (s *sideFile) know(entries []entry) {
	if s.all == nil {
		return
	}
	for _, e := range entries {
		s.all[e.digest] = struct{}{}
	}
}
