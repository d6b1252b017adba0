package conformance

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The files of the five documents can be read, and each step says which words
// of the document it is about.
func TestSeedsLoad(t *testing.T) {
	files, err := filepath.Glob("../../../testdata/seeds/S?.yaml")
	if err != nil || len(files) != 5 {
		t.Fatalf("%q, %v", files, err)
	}
	for _, name := range files {
		r, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		f, err := Load(r)
		r.Close()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		names := make(map[string]bool)
		for _, s := range f.steps {
			if s.sentence == "" || names[s.name] {
				t.Errorf("%s: step %q has no sentence or the name of another", name, s.name)
			}
			names[s.name] = true
			for _, save := range s.save {
				if secret := strings.HasSuffix(save.from, "/key"); secret != contains(f.secrets, save.name) {
					t.Errorf("%s: step %q: is %s a secret?", name, s.name, save.name)
				}
			}
		}
	}
}

func contains(list []string, s string) bool {
	for _, e := range list {
		if e == s {
			return true
		}
	}
	return false
}
