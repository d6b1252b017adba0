package credit

import (
	"encoding/binary"
	"errors"
	"runtime/debug"
	"sync"
	"sync/atomic"
)

// memory is slots in memory, which outlive ledgers.
type memory struct {
	mu    sync.Mutex
	slots map[[16]byte]*memorySlot
	broke error  // of Slot, Turn and Lease
	step  func() // called before each change, may panic
	flush int    // leases made
}

func newMemory() *memory { return &memory{slots: make(map[[16]byte]*memorySlot)} }

func (m *memory) Slot(id [16]byte, _ *Room) (Slot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broke != nil {
		return nil, m.broke
	}
	s := m.slots[id]
	if s == nil {
		s = &memorySlot{m: m}
		m.slots[id] = s
	}
	return s, nil
}

func (m *memory) Guard(old bool, _ *error) { debug.SetPanicOnFault(old) }

// powerCut does to all slots what a power cut does at worst.
func (m *memory) powerCut() {
	for _, s := range m.slots {
		s.used.Store(max(s.used.Load(), s.leased.Load()))
	}
}

type memorySlot struct {
	m                             *memory
	period, used, carried, leased atomic.Int64
}

var errMemory = errors.New("does not fit")

func (s *memorySlot) Period() int64  { return s.period.Load() }
func (s *memorySlot) Used() int64    { return s.used.Load() }
func (s *memorySlot) Carried() int64 { return s.carried.Load() }
func (s *memorySlot) Leased() int64  { return s.leased.Load() }

func (s *memorySlot) change() {
	if s.m.step != nil {
		s.m.step()
	}
}

func (s *memorySlot) Add(delta int64) (int64, error) {
	s.change()
	old := s.used.Load()
	if sum := old + delta; (sum > old) != (delta > 0) && delta != 0 {
		return 0, errMemory
	}
	return s.used.Add(delta), nil
}

func (s *memorySlot) Spend(amount, most int64) bool {
	used := s.used.Load()
	if used < 0 || used+amount > most+max(s.carried.Load(), 0) {
		return false
	}
	_, err := s.Add(amount)
	return err == nil
}

func (s *memorySlot) SetCarried(carried int64) { s.change(); s.carried.Store(carried) }

func (s *memorySlot) Turn(period, used, carried int64) error {
	if s.m.broke != nil {
		return s.m.broke
	}
	s.change()
	s.period.Store(period)
	s.used.Store(used)
	s.carried.Store(carried)
	s.leased.Store(used)
	return nil
}

func (s *memorySlot) Lease(upTo int64) error {
	if s.m.broke != nil {
		return s.m.broke
	}
	s.change()
	s.m.flush++
	s.leased.Store(max(upTo, s.leased.Load()))
	return nil
}

func grantID(n int) (id [16]byte) {
	binary.BigEndian.PutUint64(id[:], uint64(n))
	return id
}
