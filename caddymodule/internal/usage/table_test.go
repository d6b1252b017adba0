package usage

import (
	"encoding/base32"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// A series has one hash whatever was hashed before it, in any table of a
// recorder and after a table was used for another minute.
func TestHashIsOfTheSeriesAlone(t *testing.T) {
	seed := maphash.MakeSeed()
	used, s := newTable(seed), new(shard)
	for n := range 200 {
		one := series(fmt.Sprint("t", n%3), n%5, []string{"", "a", "b"}[n%3], Class(1+n%4))
		if n%7 == 0 {
			one.Key = OtherKey
		}
		if used.hash(&one) != newTable(seed).hash(&one) {
			t.Fatalf("%d: the hash of %+v depends on those before", n, one)
		}
		if n%50 == 0 {
			s.giveBack(used)
			used = s.empty(seed)
		}
	}
}

// The slots that one look-up goes over are few, also where ids are letters and
// digits, and where keys have several classes and routes.
func TestHashSpreads(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	names := map[string]func(n int) access.KeyID{
		"numbers": keyID,
		"letters": func(int) (id access.KeyID) {
			b := make([]byte, 10)
			be.PutUint64(b, random.Uint64())
			be.PutUint16(b[8:], uint16(random.Uint32()))
			copy(id[:], base32.StdEncoding.EncodeToString(b))
			return id
		},
		"bytes": func(n int) (id access.KeyID) {
			be.PutUint64(id[:], random.Uint64())
			be.PutUint64(id[8:], random.Uint64())
			return id
		},
	}
	for name, id := range names {
		table := newTable(maphash.MakeSeed())
		table.number = new(number)
		for n := range 4096 {
			s := Series{Tenant: "t", Key: id(n / 8), Route: fmt.Sprint(n % 4), Class: Class(2 + n%8/4)}
			table.row(&s, 1<<20)
		}
		if len(table.rows) != 4096 {
			t.Fatalf("%s: %d rows", name, len(table.rows))
		}
		longest, run := 0, 0
		for _, w := range table.slots {
			if run++; w == 0 {
				run = 0
			}
			longest = max(longest, run)
		}
		if longest > 200 { // about 40 by chance
			t.Errorf("%s: %d slots in a row are taken", name, longest)
		}
	}
}
