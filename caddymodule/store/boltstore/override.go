package boltstore

import (
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// overrideLen is the length of an override in the record of a key or tenant.
const overrideLen = 3*4 + 8 + 8 + 4 + 8

// override writes an override, which must not be nil.
func (w *writer) override(o *access.Override) {
	for _, n := range [...]uint32{o.Rate.Requests, o.Rate.Burst, o.Concurrent, o.MaxKeys} {
		w.b = le.AppendUint32(w.b, n)
	}
	for _, n := range [...]int64{int64(o.Rate.Window), int64(o.Credits), o.Until} {
		w.b = le.AppendUint64(w.b, uint64(n))
	}
}

func (r *reading) override() *access.Override {
	b := r.take(overrideLen)
	return &access.Override{
		Rate:       access.Rate{Requests: le.Uint32(b), Burst: le.Uint32(b[4:]), Window: time.Duration(le.Uint64(b[16:]))},
		Concurrent: le.Uint32(b[8:]), MaxKeys: le.Uint32(b[12:]),
		Credits: access.Credits(le.Uint64(b[24:])), Until: int64(le.Uint64(b[32:])),
	}
}

// grantMin is the least length of a grant in a tenant record.
const grantMin = 2 + 8 + 8 + 2 + timeLen

func (w *writer) grants(list []access.Grant) {
	w.count(len(list))
	for i := range list {
		g := &list[i]
		w.text(g.ID)
		w.b = le.AppendUint64(w.b, uint64(g.Amount))
		w.b = le.AppendUint64(w.b, uint64(g.Expires))
		w.text(g.Note)
		w.time(g.CreatedAt)
	}
}

// grants reads a list of grants, which is never empty where there is one.
func (r *reading) grants() []access.Grant {
	list := make([]access.Grant, r.count(grantMin))
	for i := range list {
		g := &list[i]
		g.ID = r.text()
		b := r.take(16)
		g.Amount, g.Expires = access.Credits(le.Uint64(b)), int64(le.Uint64(b[8:]))
		g.Note = r.text()
		g.CreatedAt = r.time(r.take(timeLen))
	}
	r.bad = r.bad || len(list) == 0
	return list
}
