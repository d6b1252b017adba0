package provider_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/internal/provider"
)

// What may be asked at an address: over https, over https with private
// addresses allowed, over http with them allowed.
const (
	public  = "https"
	private = "with leave"
	never   = "never"
)

// TestAddresses goes through the first and last address of each range, and the
// ones next to it. That Verify judges as Compile does is for the tests there.
func TestAddresses(t *testing.T) {
	for _, c := range []struct{ may, list string }{
		{public, "1.0.0.0 1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0"},
		{public, "169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 191.255.255.255 192.0.1.0 192.0.3.0 192.88.98.255"},
		{public, "192.88.100.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 198.51.99.255 198.51.101.0"},
		{public, "203.0.112.255 203.0.114.0 223.255.255.255"},
		{private, "10.0.0.0 10.255.255.255 172.16.0.0 172.31.255.255 192.168.0.0 192.168.255.255"},
		{private, "127.0.0.0 127.0.0.1 127.255.255.255 100.64.0.0 100.127.255.255"},
		{never, "0.0.0.0 0.0.0.1 0.255.255.255 169.254.0.0 169.254.169.254 169.254.255.255 192.0.0.0 192.0.0.255"},
		{never, "192.0.2.0 192.0.2.255 192.88.99.0 192.88.99.255 198.18.0.0 198.19.255.255 198.51.100.0 198.51.100.255"},
		{never, "203.0.113.0 203.0.113.255 224.0.0.0 239.255.255.255 240.0.0.0 255.255.255.254 255.255.255.255"},

		{public, "2000:: 2001:200:: 2001:4860:4860::8888 2001:db7:: 2001:db9:: 2003:: 2606:4700::1111 3ffe:ffff:: 3fff:1000::"},
		{private, "::1 fc00:: fd12:3456::1%25eth0 fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{never, ":: ::2 ::7f00:1 100:: 1fff:ffff:: 4000:: 5f00:: fbff:ffff:: fe00:: fe80:: fe80::1%25eth0 febf:ffff:: fec0:: ff00:: ff02::1"},
		{never, "2001:: 2001:0:7f00:1:: 2001:2:: 2001:1ff:ffff:: 2001:db8:: 2001:db8:ffff:: 2002:: 2002:7f00:1:: 2002:808:808:: 3fff:: 3fff:fff::"},

		{public, "::ffff:8.8.8.8 64:ff9b::8.8.8.8"},
		{private, "::ffff:127.0.0.1 ::ffff:10.1.2.3 64:ff9b::127.0.0.1 64:ff9b::192.168.1.1"},
		{never, "::ffff:169.254.169.254 ::ffff:0.0.0.0 64:ff9b::169.254.169.254 64:ff9b::224.0.0.1 64:ff9b:1::8.8.8.8 64:ff9b::1:0:0"},
	} {
		for addr := range strings.FieldsSeq(c.list) {
			if strings.Contains(addr, ":") {
				addr = "[" + addr + "]"
			}
			for _, way := range []struct {
				url     string
				private bool
				ok      bool
			}{
				{"https://" + addr + "/", false, c.may == public},
				{"https://" + addr + "/", true, c.may != never},
				{"http://" + addr + "/", true, c.may == private},
				{"http://" + addr + "/", false, false},
			} {
				check := verify(way.url)
				check.AllowPrivate = way.private
				_, err := provider.Compile("acme", provider.Definition{Verify: check})
				if (err == nil) != way.ok {
					t.Errorf("%s, private addresses allowed %v: %v", way.url, way.private, err)
				}
			}
		}
	}
}

// FuzzAddresses: no address that the standard library calls private or local is
// taken as a public one, nor one that maps it.
func FuzzAddresses(f *testing.F) {
	for _, s := range []string{"127.0.0.1", "8.8.8.8", "::1", "fe80::1", "::ffff:10.0.0.1", "2001:4860::"} {
		f.Add(netip.MustParseAddr(s).AsSlice())
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		addr, ok := netip.AddrFromSlice(raw)
		if !ok {
			return
		}
		host := addr.String()
		if addr.Is6() {
			host = "[" + host + "]"
		}
		_, err := provider.Compile("acme", provider.Definition{Verify: verify("https://" + host)})
		plain := addr.Unmap()
		if err == nil && (!plain.IsGlobalUnicast() || plain.IsPrivate() || plain.IsLoopback() || plain.IsLinkLocalUnicast()) {
			t.Errorf("%s is taken", addr)
		}
	})
}
