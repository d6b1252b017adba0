// Package near has the processor fetch memory before it is needed. Among a million
// tenants what a request is about lies in no cache: the request waits for each
// piece of it about as long as checking its key takes. Pieces that are asked for
// a little ahead come while it does something else.
package near

import "unsafe"

// Fetch asks for the 64 bytes in which p is, and the 64 behind them. It waits for
// nothing and reads nothing: p may point anywhere.
func Fetch(p unsafe.Pointer) { fetch(uintptr(p)) }

// Behind is Fetch for what v points to. v is a pointer, or nil.
func Behind(v any) { fetch((*[2]uintptr)(unsafe.Pointer(&v))[1]) }
