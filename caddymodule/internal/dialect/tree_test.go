package dialect

import (
	"strconv"
	"strings"
	"testing"
)

// A long name is not written out once for each member below it: a body of 64
// KiB would cost its reader 100 MiB.
func TestLongNamesCostLittle(t *testing.T) {
	var members []string
	for i := range 3000 {
		members = append(members, strconv.Quote(strconv.Itoa(i))+":1")
	}
	body := []byte(`{"metadata":{"` + strings.Repeat("x", 30<<10) + `":{` + strings.Join(members, ",") + `}}}`)
	if len(body) > maxBody {
		t.Fatal(len(body))
	}
	result := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			if _, err := parseObject(body); err != nil {
				b.Fatal(err)
			}
		}
	})
	if got := result.AllocedBytesPerOp(); got > 8<<20 {
		t.Errorf("%d bytes for a body of %d", got, len(body))
	}
}
