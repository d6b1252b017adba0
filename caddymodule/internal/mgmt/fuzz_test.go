package mgmt

import (
	"bytes"
	"encoding/json"
	"testing"
)

// Whatever is taken is taken by a strict reader too, and says the same when it
// is written again.
func FuzzUnmarshal(f *testing.F) {
	for _, s := range []string{`{}`, `{"name":"a","name":"b"}`, `{"expires_at":null,"rate":{"requests":1,"window":"1m"}}`,
		`{"expires_at":"2030-01-01T00:00:00Z","metadata":{"a":"b"},"permissions":["x"]}`, `{"rate":[]}`, `[[[[`, `{"metadata":{"a":{"b":1}}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var u, again UpdateKey
		if unmarshal(body, &u) != nil {
			return
		}
		strict := json.NewDecoder(bytes.NewReader(body))
		strict.DisallowUnknownFields()
		if err := strict.Decode(&again); err != nil {
			t.Fatalf("%q: taken, but %v", body, err)
		}
		text, err := json.Marshal(u)
		if err != nil {
			t.Fatalf("%q: %v", body, err)
		}
		again = UpdateKey{}
		if err := unmarshal(text, &again); err != nil {
			t.Fatalf("%q was written as %s: %v", body, text, err)
		}
		if second, _ := json.Marshal(again); !bytes.Equal(text, second) {
			t.Fatalf("%q: %s, then %s", body, text, second)
		}
	})
}

// No line of an import ends it, whatever it holds.
func FuzzLine(f *testing.F) {
	f.Add([]byte(`{"keytoll_export":1,"installation":"x"}`))
	f.Add([]byte(`{"type":"key","tenant":"a","digest":"00","alg":1,"rate":{"requests":1,"window":"s"}}`))
	f.Add([]byte(`{"tenant":"a","key":"k","addresses":["::1/300"],"status":"x"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if text = bytes.TrimSpace(text); len(text) == 0 {
			return
		}
		l := &loading{call: &call{door: &Handler{}}, report: &ImportReport{}}
		var line Line
		if err := l.note(1, l.read(1, text, &line)); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if len(l.batch)+len(l.report.Errors) > 1 {
			t.Fatalf("%q is %d keys and %d errors", text, len(l.batch), len(l.report.Errors))
		}
	})
}
