package credit

import "github.com/keytoll/keytoll/caddymodule/internal/counter"

// Counters are the slots of a counter file.
func Counters(f *counter.File) Slots { return counters{f} }

type counters struct{ *counter.File }

// Slot implements Slots.
func (c counters) Slot(id [16]byte, room *Room) (Slot, error) {
	s, err := c.File.Slot(id)
	if err != nil {
		return nil, err
	}
	*room = *s
	return room, nil
}

var _ Slot = (*counter.Slot)(nil)
