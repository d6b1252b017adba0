package boltstore

import (
	"bytes"
	"net/netip"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// Use implements store.Reader.
func (r *reader) Use(id access.KeyID) (access.Use, error) {
	b, err := r.get(bucketUses, id[:])
	if b == nil || err != nil {
		return access.Use{}, err
	}
	r.inside = true
	u, ok := decodeUse(b)
	r.inside = false
	if !ok {
		return u, damaged(r.s.path, "use of key %s: %v", id, errRecord)
	}
	return u, nil
}

// PutUse implements store.Tx.
func (t *tx) PutUse(id access.KeyID, u access.Use) error {
	t.inside = true
	there := t.tx.Bucket(bucketKeys).Get(id[:]) != nil
	t.inside = false
	if !there {
		return nil
	}
	return t.put(bucketUses, bytes.Clone(id[:]), encodeUse(u))
}

// encodeUse returns the time, the length of the address and the address, and
// the agent, with room for a tag.
func encodeUse(u access.Use) []byte {
	addr, _ := u.Address.MarshalBinary() // never fails
	if len(addr) > 255 {
		addr = nil // a zone of that length is nobody's
	}
	b := make([]byte, 0, 8+1+len(addr)+len(u.Agent)+tagLen)
	b = le.AppendUint64(b, uint64(u.At))
	b = append(append(b, byte(len(addr))), addr...)
	return append(b, u.Agent...)
}

func decodeUse(b []byte) (u access.Use, ok bool) {
	if len(b) < 9 || len(b) < 9+int(b[8]) {
		return u, false
	}
	at, addr, agent := b[:8], b[9:9+int(b[8])], b[9+int(b[8]):]
	var a netip.Addr
	if a.UnmarshalBinary(addr) != nil {
		return u, false
	}
	return access.Use{At: int64(le.Uint64(at)), Address: a, Agent: string(agent)}, true
}
