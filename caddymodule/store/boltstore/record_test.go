package boltstore

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store/storetest"
)

func TestUnstorable(t *testing.T) {
	long := strings.Repeat("x", 1<<16)
	for what, change := range map[string]func(*access.Key){
		"no status":         func(k *access.Key) { k.Status = 0 },
		"a tenant's status": func(k *access.Key) { k.Status = access.StatusSuspended },
		"long name":         func(k *access.Key) { k.Name = long },
		"long metadata":     func(k *access.Key) { k.Metadata = map[string]string{"x": long} },
		"no address":        func(k *access.Key) { k.Rights = &access.Rights{Addresses: make([]netip.Prefix, 1)} },
		"many permissions":  func(k *access.Key) { k.Rights = &access.Rights{Permissions: make([]string, 1<<16)} },
	} {
		k := storetest.NewKey("acme", 1)
		change(k)
		if _, err := encodeKey(k); err == nil || !strings.Contains(err.Error(), k.ID.String()) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, change := range map[string]func(*access.Tenant){
		"no id":     func(v *access.Tenant) { v.ID = "" },
		"NUL in id": func(v *access.Tenant) { v.ID = "a\x00b" },
		"long id":   func(v *access.Tenant) { v.ID = long[:256] },
		"revoked":   func(v *access.Tenant) { v.Status = access.StatusRevoked },
		"long plan": func(v *access.Tenant) { v.Plan = long },
		"long note": func(v *access.Tenant) { v.Grants = []access.Grant{{Note: long}} },
	} {
		v := storetest.NewTenant("acme")
		change(v)
		if _, err := encodeTenant(v); err == nil {
			t.Errorf("%s was encoded", what)
		}
	}
}

// Every shorter or longer record is refused.
func TestDecodeLength(t *testing.T) {
	k := storetest.NewKey("acme", 1)
	b, _ := encodeKey(k)
	v, _ := encodeTenant(storetest.NewTenant("acme"))
	for n := range b {
		if _, err := decodeKey(k.ID[:], b[:n]); err == nil {
			t.Fatalf("key record cut off at %d of %d was decoded", n, len(b))
		}
	}
	for n := range v {
		if _, err := decodeTenant([]byte("acme"), v[:n]); err == nil {
			t.Fatalf("tenant record cut off at %d of %d was decoded", n, len(v))
		}
	}
	if _, err := decodeKey(k.ID[:], append(b, 0)); err == nil {
		t.Fatal("trailing byte")
	}
	if _, err := decodeTenant([]byte("acme"), append(v, 0)); err == nil {
		t.Fatal("trailing byte")
	}
}

// The layout is a promise: this record was written by version 1.
func TestVersion1(t *testing.T) {
	k := layoutKey()
	b := "\x01" + layoutHead + "\x01\x00t\x01\x00e\x01\x00n\x01\x00p" + "\x01\x00\x01\x00r" + "\x01\x00\x01\x00k\x01\x00v"
	back, err := decodeKey(k.ID[:], []byte(b))
	if err != nil || !reflect.DeepEqual(back, k) {
		t.Fatalf("%+v, %v", back, err)
	}
	n := newNames(map[string]string{"t": "t"})
	var h, again access.KeyHead
	for _, h := range []*access.KeyHead{&h, &again} {
		if _, err := decodeHead(h, k.ID[:], []byte(b), &n); err != nil || !reflect.DeepEqual(*h, k.KeyHead) {
			t.Fatalf("%+v, %v", h, err)
		}
	}
	if h.Rights != again.Rights {
		t.Fatal("equal rights are not shared")
	}
	for n := range b {
		if _, err := decodeKey(k.ID[:], []byte(b[:n])); err == nil {
			t.Fatalf("record cut off at %d of %d was decoded", n, len(b))
		}
	}
	v := "\x01\x01\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x01\x00t\x01\x00n\x01\x00p\x01\x00\x01\x00k\x01\x00v"
	got, err := decodeTenant([]byte("t"), []byte(v))
	want := &access.Tenant{ID: "t", Name: "n", Plan: "p", Status: access.StatusActive, CreatedAt: time.Unix(6, 7).UTC(), Metadata: map[string]string{"k": "v"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v, %v", got, err)
	}
}

func layoutKey() *access.Key {
	k := &access.Key{KeyHead: access.KeyHead{ID: access.KeyID([]byte("0123456789abcdef")), Alg: 1, Status: access.StatusRevoked,
		Expires: 0x0102, Rate: access.Rate{Requests: 3, Burst: 4, Window: 5}, Tenant: "t", Environment: "e", Rights: access.NewRights([]string{"r"}, nil)},
		Name: "n", Prefix: "p", Metadata: map[string]string{"k": "v"},
		CreatedAt: time.Unix(6, 7).UTC(), RevokedAt: time.Unix(8, 9).UTC()}
	copy(k.Digest[:], strings.Repeat("d", 32))
	return k
}

// layoutHead is the fixed part of layoutKey's record, without the version.
const layoutHead = "\x01\x03\x00" + layoutRest
const layoutRest = "\x03\x00\x00\x00\x04\x00\x00\x00" + "\x05\x00\x00\x00\x00\x00\x00\x00" + "\x02\x01\x00\x00\x00\x00\x00\x00" +
	"\x06\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00" + "\x08\x00\x00\x00\x00\x00\x00\x00\x09\x00\x00\x00" + "dddddddddddddddddddddddddddddddd"

// So is this one, of version 2.
func TestRecordLayout(t *testing.T) {
	bare, full := layoutKey(), layoutKey()
	full.Description = "D"
	full.RotatedAt = time.Unix(10, 11).UTC()
	full.Rights = access.NewRights([]string{"s", "r"}, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")})
	full.Previous = &access.Previous{Alg: 2, Since: 12, Until: 13, Digest: [32]byte([]byte(strings.Repeat("o", 32)))}
	full.Imported = &access.Imported{Hint: "h", Hash: "H"}
	full.Override = layoutOverride()
	for _, c := range []struct {
		key  *access.Key
		want string
	}{
		{bare, "\x02\x01\x03\x00" + layoutRest + "\x01\x00t\x01\x00e" + "\x07\x00\x01\x00\x01\x00r\x00\x00" +
			"\x01\x00n\x00\x00\x01\x00p" + "\x01\x00\x01\x00k\x01\x00v"},
		{full, "\x02\x01\x03\x0f" + layoutRest + "\x01\x00t\x01\x00e" +
			"\x22\x00\x02\x00\x01\x00r\x01\x00s\x02\x00" + "\x04\x0a\x00\x00\x00\x08" + "\x10\x20\x01\x0d\xb8" + strings.Repeat("\x00", 12) + "\x20" +
			strings.Repeat("o", 32) + "\x02" + "\x0c\x00\x00\x00\x00\x00\x00\x00\x0d\x00\x00\x00\x00\x00\x00\x00" +
			"\x01\x00h\x01\x00H" + overrideText + "\x0a\x00\x00\x00\x00\x00\x00\x00\x0b\x00\x00\x00" +
			"\x01\x00n\x01\x00D\x01\x00p" + "\x01\x00\x01\x00k\x01\x00v"},
	} {
		got, err := encodeKey(c.key)
		if err != nil || string(got) != c.want {
			t.Fatalf("%v\n got %q\nwant %q", err, got, c.want)
		}
		back, err := decodeKey(c.key.ID[:], got)
		if err != nil || !reflect.DeepEqual(back, c.key) {
			t.Fatalf("%+v, %v", back, err)
		}
		for n := range got {
			if _, err := decodeKey(c.key.ID[:], got[:n]); err == nil {
				t.Fatalf("record cut off at %d of %d was decoded", n, len(got))
			}
		}
	}
}

func layoutOverride() *access.Override {
	return &access.Override{Rate: access.Rate{Requests: 1, Burst: 2, Window: 5}, Concurrent: 3, MaxKeys: 4, Credits: 6, Until: 7}
}

const overrideText = "\x01\x00\x00\x00\x02\x00\x00\x00\x03\x00\x00\x00\x04\x00\x00\x00" +
	"\x05\x00\x00\x00\x00\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00"

func TestTenantLayout(t *testing.T) {
	const head = "\x06\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x01\x00t\x01\x00n\x01\x00p"
	const metadata = "\x01\x00\x01\x00k\x01\x00v"
	bare := access.Tenant{ID: "t", Name: "n", Plan: "p", Status: access.StatusActive, CreatedAt: time.Unix(6, 7).UTC(), Metadata: map[string]string{"k": "v"}}
	bounded, full, granted := bare, bare, bare
	bounded.Permissions = []string{"r"}
	granted.Grants = []access.Grant{{ID: "g", Amount: 8, Expires: 9, Note: "N", CreatedAt: time.Unix(10, 0).UTC()}, {ID: "h", Amount: 11, CreatedAt: time.Unix(12, 0).UTC()}}
	const grants = "\x02\x00\x01\x00g\x08\x00\x00\x00\x00\x00\x00\x00\x09\x00\x00\x00\x00\x00\x00\x00\x01\x00N\x0a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
		"\x01\x00h\x0b\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x0c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	full.Permissions, full.Override, full.Grants = bounded.Permissions, layoutOverride(), granted.Grants
	for want, v := range map[string]*access.Tenant{
		"\x02\x01\x00\x00" + head + metadata:                                               &bare,
		"\x02\x01\x01\x00" + head + "\x01\x00\x01\x00r" + metadata:                         &bounded,
		"\x02\x01\x04\x00" + head + grants + metadata:                                      &granted,
		"\x02\x01\x07\x00" + head + "\x01\x00\x01\x00r" + overrideText + grants + metadata: &full,
	} {
		got, err := encodeTenant(v)
		if err != nil || string(got) != want {
			t.Fatalf("%v\n got %q\nwant %q", err, got, want)
		}
		back, err := decodeTenant([]byte("t"), got)
		if err != nil || !reflect.DeepEqual(back, v) {
			t.Fatalf("%+v, %v", back, err)
		}
		for n := range got {
			if _, err := decodeTenant([]byte("t"), got[:n]); err == nil {
				t.Fatalf("record cut off at %d of %d was decoded", n, len(got))
			}
		}
	}
}

func TestDecodeAllocs(t *testing.T) {
	record, _ := encodeKey(storetest.NewKey("acme", 1))
	id := []byte("0123456789abcdef")
	tags := newTagger([32]byte{1})
	value := tags.seal(bucketKeys, id, record)
	n := newNames(map[string]string{"acme": "acme"})
	var h access.KeyHead
	if got := testing.AllocsPerRun(100, func() {
		b, ok := tags.open(bucketKeys, id, value)
		if !ok {
			t.Fatal("tag")
		}
		if _, err := decodeHead(&h, id, b, &n); err != nil {
			t.Fatal(err)
		}
	}); got > 0 {
		t.Fatalf("%v allocations for a key that is loaded, want 0", got)
	}
}

// What is decoded is encoded to the same bytes; nothing panics.
func FuzzDecodeKey(f *testing.F) {
	b, _ := encodeKey(storetest.NewKey("acme", 1))
	f.Add(b)
	f.Add(b[:keyHeadLen])
	full := layoutKey()
	full.Previous, full.Imported, full.RotatedAt = &access.Previous{Until: 1}, &access.Imported{Hint: "h", Hash: "H"}, time.Unix(1, 0)
	full.Override = layoutOverride()
	b2, _ := encodeKey(full)
	f.Add(b2)
	b1, _ := encodeKey(layoutKey())
	f.Add(b1)
	f.Add([]byte("\x01" + layoutHead + "\x01\x00t\x01\x00e\x01\x00n\x01\x00p" + "\x01\x00\x01\x00r" + "\x01\x00\x01\x00k\x01\x00v"))
	f.Add([]byte{})
	id := []byte("0123456789abcdef")
	f.Fuzz(func(t *testing.T, b []byte) {
		g, tenant, ok := glance(access.KeyID(id), b)
		k, err := decodeKey(id, b)
		if err != nil {
			return
		}
		if !ok || g.ID != k.ID || g.Status != k.Status || string(g.Name) != k.Name || string(tenant) != k.Tenant {
			t.Fatalf("at a glance %+v of %q, %v; it is %+v", g, tenant, ok, k)
		}
		again, err := encodeKey(k)
		if err != nil {
			t.Fatal(err)
		}
		k2, err := decodeKey(id, again)
		if err != nil || !reflect.DeepEqual(k, k2) {
			t.Fatalf("%+v became %+v, %v", k, k2, err)
		}
	})
}

func FuzzDecodeTenant(f *testing.F) {
	b, _ := encodeTenant(storetest.NewTenant("acme"))
	f.Add([]byte("acme"), b)
	f.Add([]byte(""), []byte{})
	v := storetest.NewTenant("acme")
	v.Override, v.Grants = layoutOverride(), []access.Grant{{ID: "g", Note: "n"}}
	b2, _ := encodeTenant(v)
	f.Add([]byte("acme"), b2)
	f.Fuzz(func(t *testing.T, id, b []byte) {
		v, err := decodeTenant(id, b)
		if err != nil {
			return
		}
		if v.ID != string(id) {
			t.Fatal("a tenant under another id")
		}
		again, err := encodeTenant(v)
		if err != nil {
			return // an id that no tenant may have
		}
		if v2, err := decodeTenant(id, again); err != nil || !reflect.DeepEqual(v, v2) {
			t.Fatalf("%+v became %+v, %v", v, v2, err)
		}
	})
}
