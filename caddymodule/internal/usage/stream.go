package usage

import "context"

// Bounds of an Update.
const (
	maxChanges   = 1000
	pacedChanges = 250 // of one after which there is a pause
)

// change is one Put, or a Delete if value is nil.
type change struct{ key, value []byte }

// stream makes changes in bounded updates, in order. All keys and values of an
// update are in one buffer, which the next one uses again.
type stream struct {
	ctx     context.Context
	storage Storage
	most    int          // changes of an update
	pause   func() error // between two updates
	buf     []byte
	ends    []int // of each key and its value; the value's is -1 for a Delete
	sent    bool
}

func newStream(ctx context.Context, s Storage, most int, pause func() error) *stream {
	return &stream{ctx: ctx, storage: s, most: most, pause: pause}
}

// apply makes changes at once.
func apply(ctx context.Context, s Storage, changes []change) error {
	w := newStream(ctx, s, maxChanges, noPause)
	for _, c := range changes {
		if err := w.change(c); err != nil {
			return err
		}
	}
	return w.end()
}

func noPause() error { return nil }

func (w *stream) change(c change) error {
	if err := w.room(); err != nil {
		return err
	}
	w.buf = append(w.buf, c.key...)
	key := len(w.buf)
	if c.value == nil {
		w.ends = append(w.ends, key, -1)
		return nil
	}
	w.buf = append(w.buf, c.value...)
	w.ends = append(w.ends, key, len(w.buf))
	return nil
}

// rows puts all rows of an order under keys that begin with head.
func (w *stream) rows(head []byte, o *order) error {
	for s, v := o.next(); s != nil; s, v = o.next() {
		if err := w.room(); err != nil {
			return err
		}
		w.buf = appendSeries(append(w.buf, head...), s)
		key := len(w.buf)
		w.buf = appendValues(w.buf, &v)
		w.ends = append(w.ends, key, len(w.buf))
	}
	return nil
}

// room makes room for a change.
func (w *stream) room() error {
	if len(w.ends)/2 < w.most {
		return nil
	}
	return w.end()
}

// end makes the changes that were not made yet.
func (w *stream) end() error {
	if len(w.ends) == 0 {
		return nil
	}
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if w.sent {
		if err := w.pause(); err != nil {
			return err
		}
	}
	w.sent = true
	err := w.storage.Update(w.ctx, w.update)
	w.buf, w.ends = w.buf[:0], w.ends[:0]
	return err
}

func (w *stream) update(to Writer) error {
	from := 0
	for i := 0; i < len(w.ends); i += 2 {
		key, end := w.ends[i], w.ends[i+1]
		var err error
		if end < 0 {
			err, end = to.Delete(w.buf[from:key]), key
		} else {
			err = to.Put(w.buf[from:key:key], w.buf[key:end:end])
		}
		if err != nil {
			return err
		}
		from = end
	}
	return nil
}
