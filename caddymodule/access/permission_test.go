package access

import (
	"strings"
	"testing"
)

func TestPermissions(t *testing.T) {
	p, err := NewPermissions([]Permission{
		{Name: "admin", Implies: []string{"write"}}, {Name: "write", Implies: []string{"read"}}, {Name: "read"},
		{Name: "rules:get"}, {Name: "rules:put", Implies: []string{"rules:get"}}, {Name: "sites:get"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		granted, needed string
		holds           bool
	}{
		{"admin", "read", true}, {"admin", "write", true}, {"write", "admin", false}, {"read", "read", true},
		{"*", "admin", true}, {"*", "unheard:of", true}, {"*", "rules:*", true}, {"rules:*", "rules:get", true},
		{"rules:*", "sites:get", false}, {"rules:*", "*", false}, {"rules:*", "rules:*", true}, {"rules:p*", "rules:*", false},
		{"rules:p*", "rules:get", true}, // by what rules:put implies
		{"a*", "read", true}, {"", "read", false}, {"rules:get", "rules:put", false},
		{"read rules:get", "rules:get", true}, {"read", "Read", false},
	} {
		if got := p.Holds(strings.Fields(c.granted), c.needed); got != c.holds {
			t.Errorf("%q holds %q: %v", c.granted, c.needed, got)
		}
	}
	for name, known := range map[string]bool{"read": true, "*": true, "rules:*": true, "rulez:*": false, "nope": false} {
		if p.Known(name) != known {
			t.Errorf("%s known: %v", name, !known)
		}
	}
	var none *Permissions
	if !none.Known("anything") || !none.Holds([]string{"x"}, "x") || none.Holds([]string{"x"}, "y") || none.Configured() {
		t.Error("without permissions any name is one that holds itself")
	}
	list := p.List()
	if len(list) != 6 || list[0].Name != "admin" || strings.Join(list[0].Implies, " ") != "read write" {
		t.Errorf("%+v", list)
	}
}

func TestNewPermissionsRefuses(t *testing.T) {
	for want, list := range map[string][]Permission{
		"twice":       {{Name: "a"}, {Name: "a"}},
		"not defined": {{Name: "a", Implies: []string{"b"}}},
		"itself":      {{Name: "a", Implies: []string{"b"}}, {Name: "b", Implies: []string{"c"}}, {Name: "c", Implies: []string{"a"}}},
		"wildcard":    {{Name: "a:*"}},
		"characters":  {{Name: ""}},
	} {
		if _, err := NewPermissions(list); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
