package boltstore

import (
	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// Keys implements store.Reader.
func (r *reader) Keys(tenant string, after access.KeyID, yield func(*access.Key) bool) error {
	var failed error
	err := r.scan(tenant, after, func(id access.KeyID, record []byte) bool {
		k, err := r.key(id, record)
		if err == nil && tenant != "" && k.Tenant != tenant {
			err = misplaced(r.s.path, id, tenant)
		}
		if err != nil {
			failed = err
			return false
		}
		return yield(k)
	})
	if failed != nil {
		return failed
	}
	return err
}

// Glance implements store.Reader.
func (r *reader) Glance(tenant string, after access.KeyID, visit func(g store.KeyGlance, read func() (*access.Key, error)) bool) error {
	var failed error
	var id access.KeyID
	var record []byte
	read := func() (*access.Key, error) { return r.key(id, record) }
	err := r.scan(tenant, after, func(i access.KeyID, b []byte) bool {
		id, record = i, b
		r.inside = true
		g, owner, ok := glance(id, record)
		foreign := tenant != "" && string(owner) != tenant
		r.inside = false
		switch {
		case !ok:
			failed = damaged(r.s.path, "key %s: %v", id, errRecord)
		case foreign:
			failed = misplaced(r.s.path, id, tenant)
		default:
			return visit(g, read)
		}
		return false
	})
	if failed != nil {
		return failed
	}
	return err
}

// scan calls visit with the checked records of keys, a tenant's alone if it is
// not empty.
func (r *reader) scan(tenant string, after access.KeyID, visit func(id access.KeyID, record []byte) bool) error {
	var failed error
	check := func(id, value []byte) (record []byte, err error) {
		switch {
		case len(id) != len(after):
			return nil, damaged(r.s.path, "%q is no key id", id)
		case tenant == "":
			r.inside = true
			record, err = r.open(bucketKeys, id, value)
			r.inside = false
			return record, err
		}
		if record, err = r.get(bucketKeys, id); err == nil && record == nil {
			err = damaged(r.s.path, "key %q is listed under tenant %s but is not there", id, tenant)
		}
		return record, err
	}
	step := func(id, value []byte) bool {
		record, err := check(id, value)
		if err != nil {
			failed = err
			return false
		}
		return visit(access.KeyID(id), record)
	}
	if tenant == "" {
		r.each(bucketKeys, nil, after[:], step)
	} else {
		r.each(bucketTenantKeys, append([]byte(tenant), 0), after[:], step)
	}
	return failed
}

func misplaced(path string, id access.KeyID, tenant string) error {
	return damaged(path, "key %s is listed under tenant %s but belongs to another", id, tenant)
}

// glance reads what filters ask for out of a key record, and the tenant. What
// it returns is part of the record.
func glance(id access.KeyID, b []byte) (g store.KeyGlance, tenant []byte, ok bool) {
	if len(b) < keyHeadLen {
		return g, nil, false
	}
	r := reading{b: b[keyHeadLen:]}
	tenant = r.bytes()
	r.bytes() // environment
	if b[0] > 1 {
		r.bytes() // rights
		if b[3]&hasPrevious != 0 {
			r.take(previousLen)
		}
		if b[3]&hasImported != 0 {
			r.bytes()
			r.bytes()
		}
		if b[3]&hasOverride != 0 {
			r.take(overrideLen)
		}
		if b[3]&hasRotated != 0 {
			r.take(timeLen)
		}
	}
	g = store.KeyGlance{ID: id, Status: access.Status(b[2]), Name: r.bytes()}
	return g, tenant, !r.bad
}
