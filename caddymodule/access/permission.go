package access

import (
	"fmt"
	"slices"
	"strings"
)

// AllPermissions is the permission that holds every other.
const AllPermissions = "*"

// Permissions is the configured permissions: which there are and which hold
// others. The zero value has none; then any name is one that holds itself
// alone. It is immutable once made and safe for concurrent use.
type Permissions struct {
	descriptions map[string]string
	implies      map[string][]string // whole closure, without the name itself
}

// Permission is one configured permission.
type Permission struct {
	Name        string
	Description string   // for people
	Implies     []string // names of configured permissions that it holds
}

// NewPermissions checks and closes a list: each name is given once, is no
// wildcard, and implies only names of the list and never, by whatever way,
// itself.
func NewPermissions(list []Permission) (*Permissions, error) {
	p := &Permissions{descriptions: make(map[string]string), implies: make(map[string][]string)}
	direct := make(map[string][]string)
	for _, q := range list {
		if err := CheckPermission(q.Name); err != nil {
			return nil, err
		}
		if strings.Contains(q.Name, "*") {
			return nil, fmt.Errorf("permission %s: a wildcard is for keys and plans, not a permission of its own", q.Name)
		}
		if _, twice := direct[q.Name]; twice {
			return nil, fmt.Errorf("permission %s is defined twice", q.Name)
		}
		direct[q.Name], p.descriptions[q.Name] = q.Implies, q.Description
	}
	for name := range direct {
		closure, err := closeOver(direct, name)
		if err != nil {
			return nil, err
		}
		p.implies[name] = closure
	}
	return p, nil
}

// closeOver returns all that name implies, over any number of steps.
func closeOver(direct map[string][]string, name string) ([]string, error) {
	var closure []string
	todo := slices.Clone(direct[name])
	for len(todo) > 0 {
		n := todo[0]
		todo = todo[1:]
		next, ok := direct[n]
		switch {
		case !ok:
			return nil, fmt.Errorf("permission %s implies %s, which is not defined: add `permission %[2]s`", name, n)
		case n == name:
			return nil, fmt.Errorf("permission %s implies itself", name)
		case !slices.Contains(closure, n):
			closure = append(closure, n)
			todo = append(todo, next...)
		}
	}
	slices.Sort(closure)
	return closure, nil
}

// List returns the configured permissions in order of their names.
func (p *Permissions) List() []Permission {
	if p == nil {
		return nil
	}
	var list []Permission
	for name, closure := range p.implies {
		list = append(list, Permission{Name: name, Description: p.descriptions[name], Implies: closure})
	}
	slices.SortFunc(list, func(a, b Permission) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Configured reports whether there are any: then a key can hold no other.
func (p *Permissions) Configured() bool { return p != nil && len(p.implies) > 0 }

// Known reports whether a key may be given name: "*", a wildcard such as
// rules:* that covers at least one configured permission, or a configured
// permission. If none is configured any name is known.
func (p *Permissions) Known(name string) bool {
	if !p.Configured() || name == AllPermissions {
		return true
	}
	if _, ok := p.implies[name]; ok {
		return true
	}
	for n := range p.implies {
		if Covers(name, n) {
			return true
		}
	}
	return false
}

// Holds reports whether a holder of the granted permissions has the needed
// one: by name, by a wildcard, or because one that it has implies it. A needed
// wildcard is held by a wildcard at least as wide alone.
func (p *Permissions) Holds(granted []string, needed string) bool {
	for _, g := range granted {
		if p.gives(g, needed) {
			return true
		}
	}
	return false
}

func (p *Permissions) gives(granted, needed string) bool {
	if Covers(granted, needed) {
		return true
	}
	if p == nil {
		return false
	}
	if !strings.HasSuffix(granted, "*") {
		return slices.Contains(p.implies[granted], needed)
	}
	// A wildcard holds what the permissions that it covers imply.
	for name, closure := range p.implies {
		if Covers(granted, name) && slices.Contains(closure, needed) {
			return true
		}
	}
	return false
}

// Covers reports whether a permission as written covers a name: it is the
// same, or ends with "*" and what stands before that starts the name. It knows
// nothing of implication.
func Covers(permission, name string) bool {
	if stem, ok := strings.CutSuffix(permission, "*"); ok {
		return strings.HasPrefix(name, stem)
	}
	return permission == name
}
