package audit_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/audit"
)

// trail makes n records that follow one another.
func trail(t *testing.T, c *audit.Chain, n int) [][]byte {
	t.Helper()
	var records [][]byte
	var seq uint64
	var prev []byte
	for i := range n {
		e := access.AuditEntry{At: time.Unix(int64(i), 0).UTC(), Action: "key.updated", Tenant: "acme", Object: fmt.Sprint("key_", i),
			Actor: access.Actor{Kind: access.ActorOperator}, Before: json.RawMessage(`{"name":"a<b>"}`), After: json.RawMessage(`{"name":"ö"}`)}
		var err error
		if seq, prev, err = c.Record(seq, prev, &e); err != nil {
			t.Fatal(err)
		}
		if seq != uint64(i+1) || e.Seq != seq {
			t.Fatalf("record %d has number %d, its entry %d", i+1, seq, e.Seq)
		}
		records = append(records, prev)
	}
	return records
}

// verify returns the error at the first record that is not good.
func verify(c *audit.Chain, from uint64, records [][]byte) error {
	v := audit.NewVerifier(c)
	for i, r := range records {
		if err := v.Add(from+uint64(i), r); err != nil {
			return err
		}
	}
	return nil
}

func TestEveryByteCounts(t *testing.T) {
	c := audit.NewChain([32]byte{1})
	records := trail(t, c, 3)
	if err := verify(c, 1, records); err != nil {
		t.Fatal(err)
	}
	for i, r := range records {
		for at := range r {
			for _, flip := range []byte{1, 0x20, 0x80} {
				r[at] ^= flip
				err := verify(c, 1, records)
				if !errors.Is(err, audit.ErrBroken) || !strings.Contains(err.Error(), fmt.Sprint("record ", i+1)) {
					t.Fatalf("byte %d of record %d changed: %v", at, i+1, err)
				}
				r[at] ^= flip
			}
		}
		for _, other := range [][]byte{append(bytes.Clone(r), ' '), r[:len(r)-1], append([]byte(" "), r...), nil} {
			changed := append([][]byte{}, records...)
			changed[i] = other
			if err := verify(c, 1, changed); !errors.Is(err, audit.ErrBroken) {
				t.Fatalf("record %d is %q: %v", i+1, other, err)
			}
		}
	}
}

func TestOrder(t *testing.T) {
	c := audit.NewChain([32]byte{1})
	r := trail(t, c, 5)
	for name, test := range map[string]struct {
		from    uint64
		records [][]byte
		good    bool
	}{
		"whole":          {1, r, true},
		"trimmed":        {3, r[2:], true},
		"renumbered":     {2, r, false},
		"gap, closed":    {1, [][]byte{r[0], r[2]}, false},
		"two swapped":    {1, [][]byte{r[0], r[2], r[1]}, false},
		"twice":          {1, [][]byte{r[0], r[0]}, false},
		"of another key": {1, trail(t, audit.NewChain([32]byte{2}), 1), false},
	} {
		if err := verify(c, test.from, test.records); (err == nil) != test.good {
			t.Errorf("%s: %v", name, err)
		}
	}
	v := audit.NewVerifier(c)
	if err := errors.Join(v.Add(1, r[0]), v.Add(3, r[2])); err == nil || !strings.Contains(err.Error(), "record 2 is missing") {
		t.Errorf("a gap: %v", err)
	}
	if v.Last() != 1 {
		t.Errorf("last %d", v.Last())
	}
}

func TestReadGivesTheEntry(t *testing.T) {
	c := audit.NewChain([32]byte{1})
	want := access.AuditEntry{At: time.Unix(7, 0).UTC(), Action: "key.created", Object: "key_1",
		Actor: access.Actor{Kind: access.ActorKey, Key: "key_2", Address: "192.0.2.1"}, After: json.RawMessage(`{"a":1}`)}
	_, record, err := c.Record(0, nil, &want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := audit.Read(record)
	if err != nil || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	if _, _, err := c.Record(1, []byte("{}"), &want); !errors.Is(err, audit.ErrBroken) {
		t.Errorf("after a record that is none: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	_, record, _ := audit.NewChain([32]byte{1}).Record(0, nil, &access.AuditEntry{Action: "x"})
	f.Add(record)
	f.Add([]byte(`{"entry":{},"prev":"","mac":""}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := audit.Read(b); err == nil && audit.NewVerifier(audit.NewChain([32]byte{9})).Add(1, b) == nil {
			t.Errorf("verified under a key it was not made with: %q", b)
		}
	})
}
