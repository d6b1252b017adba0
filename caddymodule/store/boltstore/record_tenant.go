package boltstore

import (
	"fmt"
	"math"
	"strings"

	"github.com/keytoll/keytoll/caddymodule/access"
)

const (
	tenantVersion = 2  // that is written; version 1 has no flags
	tenantHeadLen = 16 // fixed part of a tenant record
)

// Flags of a tenant record: which of its parts are there.
const (
	hasPermissions = 1 << iota // the tenant's permissions are bounded
	hasLimits                  // an override
	hasGrants
	allTenantFlags = hasPermissions | hasLimits | hasGrants
)

func encodeTenant(t *access.Tenant) ([]byte, error) {
	if t.ID == "" || len(t.ID) > math.MaxUint8 || strings.IndexByte(t.ID, 0) >= 0 {
		return nil, fmt.Errorf("tenant id %q %w", t.ID, errUnstorable)
	}
	if t.Status != access.StatusActive && t.Status != access.StatusSuspended {
		return nil, fmt.Errorf("tenant %s: status %s %w", t.ID, t.Status, errUnstorable)
	}
	w := writer{b: make([]byte, tenantHeadLen, tenantHeadLen+96+tagLen)}
	w.b[0], w.b[1] = tenantVersion, byte(t.Status)
	putTime(w.b[4:], t.CreatedAt)
	w.text(t.ID)
	w.text(t.Name)
	w.text(t.Plan)
	if t.Permissions != nil {
		w.b[2] |= hasPermissions
		w.texts(t.Permissions)
	}
	if t.Override != nil {
		w.b[2] |= hasLimits
		w.override(t.Override)
	}
	if len(t.Grants) > 0 {
		w.b[2] |= hasGrants
		w.grants(t.Grants)
	}
	w.metadata(t.Metadata)
	if w.over {
		return nil, fmt.Errorf("tenant %s: a text or list of more than %d %w", t.ID, math.MaxUint16, errUnstorable)
	}
	return w.b, nil
}

func decodeTenant(id, b []byte) (*access.Tenant, error) {
	if len(b) < tenantHeadLen || b[0] == 0 || b[0] > tenantVersion || b[3] != 0 {
		return nil, errRecord
	}
	flags := b[2]
	if flags&^allTenantFlags != 0 || flags != 0 && b[0] == 1 {
		return nil, errRecord
	}
	t := &access.Tenant{Status: access.Status(b[1])}
	if t.Status != access.StatusActive && t.Status != access.StatusSuspended {
		return nil, errRecord
	}
	r := reading{b: b[tenantHeadLen:]}
	t.CreatedAt = r.time(b[4:])
	t.ID, t.Name, t.Plan = r.text(), r.text(), r.text()
	if flags&hasPermissions != 0 {
		if t.Permissions = r.texts(); t.Permissions == nil {
			t.Permissions = []string{}
		}
	}
	if flags&hasLimits != 0 {
		t.Override = r.override()
	}
	if flags&hasGrants != 0 {
		t.Grants = r.grants()
	}
	t.Metadata = r.metadata()
	if r.bad || len(r.b) > 0 || t.ID != string(id) {
		return nil, errRecord
	}
	return t, nil
}
