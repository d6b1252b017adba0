package provider

import (
	"fmt"
	"net/netip"
)

// block is a part of the address space that is not the public internet.
type block struct {
	prefix netip.Prefix
	what   string
	own    bool // may be a network of the operator's: AllowPrivate opens it
}

// blocks are the special-purpose addresses of IANA's two registries, within
// what globalV6 leaves for IPv6.
var blocks = []block{
	{netip.MustParsePrefix("0.0.0.0/8"), "unspecified", false},
	{netip.MustParsePrefix("10.0.0.0/8"), "private", true},
	{netip.MustParsePrefix("100.64.0.0/10"), "shared by a carrier", true},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback", true},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local", false},
	{netip.MustParsePrefix("172.16.0.0/12"), "private", true},
	{netip.MustParsePrefix("192.0.0.0/24"), "for protocols", false},
	{netip.MustParsePrefix("192.0.2.0/24"), "for documentation", false},
	{netip.MustParsePrefix("192.88.99.0/24"), "a 6to4 relay", false},
	{netip.MustParsePrefix("192.168.0.0/16"), "private", true},
	{netip.MustParsePrefix("198.18.0.0/15"), "for benchmarks", false},
	{netip.MustParsePrefix("198.51.100.0/24"), "for documentation", false},
	{netip.MustParsePrefix("203.0.113.0/24"), "for documentation", false},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast", false},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved", false},

	{netip.MustParsePrefix("::/128"), "unspecified", false},
	{netip.MustParsePrefix("::1/128"), "loopback", true},
	{netip.MustParsePrefix("fc00::/7"), "private", true},
	{netip.MustParsePrefix("fe80::/10"), "link-local", false},
	{netip.MustParsePrefix("ff00::/8"), "multicast", false},
	{netip.MustParsePrefix("2001::/23"), "for protocols, such as Teredo", false},
	{netip.MustParsePrefix("2001:db8::/32"), "for documentation", false},
	{netip.MustParsePrefix("2002::/16"), "6to4, which may lead anywhere", false},
	{netip.MustParsePrefix("3fff::/20"), "for documentation", false},
}

var (
	globalV6 = netip.MustParsePrefix("2000::/3")
	nat64    = netip.MustParsePrefix("64:ff9b::/96")
)

// permit says why a provider must not be asked at an address, or nil. Without
// allowPrivate it must be a public one. Over a connection without TLS it must
// be one of the operator's own networks, so that no key is sent over the
// internet in the clear.
func permit(addr netip.Addr, secure, allowPrivate bool) error {
	what, own := classify(addr)
	switch {
	case what == "" && !secure:
		return fmt.Errorf("the address %s is public, and http would send the key in the clear: use https", addr)
	case what == "" || own && allowPrivate:
		return nil
	case own:
		return fmt.Errorf("the address %s is %s: allow private addresses if that is meant", addr, what)
	}
	return fmt.Errorf("the address %s is %s: no provider can be there", addr, what)
}

// classify says what an address is if it is no public one, and whether it may
// belong to a network of the operator's. Addresses that hold another are judged
// by that one.
func classify(addr netip.Addr) (what string, own bool) {
	addr = addr.WithZone("").Unmap()
	if nat64.Contains(addr) {
		b := addr.As16()
		addr = netip.AddrFrom4([4]byte(b[12:]))
	}
	for i := range blocks {
		if blocks[i].prefix.Contains(addr) {
			return blocks[i].what, blocks[i].own
		}
	}
	if addr.Is6() && !globalV6.Contains(addr) || !addr.IsValid() {
		return "reserved", false
	}
	return "", false
}
