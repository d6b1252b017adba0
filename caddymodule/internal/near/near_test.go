package near

import (
	"testing"
	"unsafe"
)

// Nothing that is fetched is read: what is not there is no fault. And it costs no
// memory.
func TestNothingIsRead(t *testing.T) {
	var here [256]byte
	if n := testing.AllocsPerRun(100, func() {
		for _, p := range []unsafe.Pointer{nil, unsafe.Pointer(&here), unsafe.Pointer(&here[255])} {
			Fetch(p)
		}
		Behind(&here)
		Behind((*int)(nil))
		Behind(nil)
		fetch(1)
		fetch(^uintptr(0))
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
