package index

import (
	"sync/atomic"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// Override replaces parts of the plan for one key. It is shared by all readers
// and must not be changed; a change of the override makes a new one.
type Override struct {
	access.Override
	// Terms is for whoever works out what a configuration says of the override:
	// it is gone when the override changes. All that is stored must be of one
	// type. It is no atomic.Pointer[any], which is one more look into memory.
	Terms atomic.Value
}

// In reports whether the override holds at a unix second. It may be nil.
func (o *Override) In(now int64) bool { return o != nil && o.Override.In(now) }

// overridden marks, in a record's env, the number of an aside.
const overridden = 1 << 31

// aside is what a record has no room for. The record of a key with an override
// has its number in place of the environment's: so no other key pays for it, and
// nothing has to be searched.
type aside struct {
	env      atomic.Uint32
	override atomic.Pointer[Override]
}

// Override returns what replaces parts of the plan for a key, or nil. It may be
// over. It takes no lock and does not allocate; for a key without an override
// it reads one word of the record.
func (x *Index) Override(r *Record) *Override {
	n := r.env.Load()
	if n&overridden == 0 {
		return nil
	}
	return x.asides.at(n &^ overridden).override.Load()
}

// Environment returns the environment the key was minted for; it may be empty.
func (x *Index) Environment(r *Record) string { return *x.envs.at(x.env(r)) }

// env returns the number of the key's environment.
func (x *Index) env(r *Record) uint32 {
	n := r.env.Load()
	if n&overridden == 0 {
		return n
	}
	return x.asides.at(n &^ overridden).env.Load()
}

// setOwn makes r refer to the environment of a number, which was acquired for
// it, and to an override, or to none if v is nil, and releases its old
// environment. An override that is the same stays, and so do its terms.
func (x *Index) setOwn(r *Record, env uint32, v *access.Override) {
	was, old := r.env.Load(), x.env(r)
	i, has := was&^overridden, was&overridden != 0
	switch {
	case v != nil && has:
		x.asides.at(i).put(env, v)
	case v != nil:
		i = x.asides.take()
		x.asides.at(i).put(env, v)
		r.env.Store(overridden | i)
	default:
		r.env.Store(env)
		if has {
			x.asides.at(i).override.Store(nil) // also for those who read the record before
			x.asides.give(i)
		}
	}
	x.envs.release(old)
}

// put changes what a says. Who reads beside it gets the old of either or the new.
func (a *aside) put(env uint32, v *access.Override) {
	a.env.Store(env)
	if o := a.override.Load(); o == nil || o.Override != *v {
		a.override.Store(&Override{Override: *v})
	}
}
