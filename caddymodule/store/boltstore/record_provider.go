package boltstore

import (
	"fmt"
	"math"

	"github.com/keytoll/keytoll/caddymodule/access"
)

const (
	providerKeyVersion = 1
	providerKeyHeadLen = 32 // fixed part of a provider key's record
	dataKeyVersion     = 1
	dataKeyHeadLen     = 16 // fixed part of a data key's record
)

// isValid is the flag of a provider key that the last verification found good.
const isValid = 1

func encodeProviderKey(k *access.ProviderKey) ([]byte, error) {
	if err := access.CheckProvider(k.Provider); err != nil {
		return nil, err
	}
	if k.ID == "" {
		return nil, fmt.Errorf("%v without an id %w", k, errUnstorable)
	}
	w := writer{b: make([]byte, providerKeyHeadLen, providerKeyHeadLen+96+len(k.Sealed)+tagLen)}
	w.b[0] = providerKeyVersion
	if k.Valid {
		w.b[1] = isValid
	}
	putTime(w.b[4:], k.CreatedAt)
	le.PutUint64(w.b[16:], uint64(k.LastUsed))
	le.PutUint64(w.b[24:], uint64(k.LastVerified))
	w.text(k.Tenant)
	w.text(k.Provider)
	w.text(k.ID)
	w.text(k.LastFour)
	w.bytes(k.Sealed)
	if w.over {
		return nil, fmt.Errorf("%v: a text of more than %d %w", k, math.MaxUint16, errUnstorable)
	}
	return w.b, nil
}

// decodeProviderKey returns a copy of what the record holds.
func decodeProviderKey(id, b []byte) (*access.ProviderKey, error) {
	if len(b) < providerKeyHeadLen || b[0] != providerKeyVersion || b[1]&^isValid != 0 || b[2] != 0 || b[3] != 0 {
		return nil, errRecord
	}
	k := &access.ProviderKey{Valid: b[1]&isValid != 0,
		LastUsed: int64(le.Uint64(b[16:])), LastVerified: int64(le.Uint64(b[24:]))}
	r := reading{b: b[providerKeyHeadLen:]}
	k.CreatedAt = r.time(b[4:])
	k.Tenant, k.Provider, k.ID, k.LastFour = r.text(), r.text(), r.text(), r.text()
	k.Sealed = append([]byte(nil), r.bytes()...)
	if r.bad || len(r.b) > 0 || string(providerKeyID(k.Tenant, k.Provider)) != string(id) {
		return nil, errRecord
	}
	return k, nil
}

func encodeDataKey(k *access.DataKey) ([]byte, error) {
	if k.Wrapper == "" || len(k.Wrapped) == 0 {
		return nil, fmt.Errorf("%v without a wrapper or what it wrapped %w", k, errUnstorable)
	}
	w := writer{b: make([]byte, dataKeyHeadLen, dataKeyHeadLen+96+len(k.Wrapped)+tagLen)}
	w.b[0] = dataKeyVersion
	putTime(w.b[4:], k.CreatedAt)
	w.text(k.Tenant)
	w.text(k.Wrapper)
	w.bytes(k.Wrapped)
	if w.over {
		return nil, fmt.Errorf("%v: a text of more than %d %w", k, math.MaxUint16, errUnstorable)
	}
	return w.b, nil
}

// decodeDataKey returns a copy of what the record holds.
func decodeDataKey(id, b []byte) (*access.DataKey, error) {
	if len(b) < dataKeyHeadLen || b[0] != dataKeyVersion || b[1] != 0 || b[2] != 0 || b[3] != 0 {
		return nil, errRecord
	}
	r := reading{b: b[dataKeyHeadLen:]}
	k := &access.DataKey{CreatedAt: r.time(b[4:])}
	k.Tenant, k.Wrapper = r.text(), r.text()
	k.Wrapped = append([]byte(nil), r.bytes()...)
	if r.bad || len(r.b) > 0 || k.Tenant != string(id) {
		return nil, errRecord
	}
	return k, nil
}

// providerKeyID returns the id of the record of a tenant's key for a provider.
// Neither name holds a NUL.
func providerKeyID(tenant, provider string) []byte {
	b := make([]byte, 0, len(tenant)+1+len(provider))
	b = append(b, tenant...)
	b = append(b, 0)
	return append(b, provider...)
}
