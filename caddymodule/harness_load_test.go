package caddymodule

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// hangUp is a wrapper of the listeners of a server, for tests alone. With it,
// who connects once caddy.Load or caddy.Stop has returned never meets a server
// that they stopped.
//
// Without it some do. Caddy 2.11.9 stops a server by starting a goroutine for
// http.Server.Shutdown, and waits for no more than its first line (App.Stop in
// modules/caddyhttp/app.go says so). On Unix each configuration has a socket of
// its own on the same port (SO_REUSEPORT), and as long as the old one is open the
// kernel gives it every other connection. An answer of the new configuration
// thus proves nothing about the next one.
//
// The wrapper is a module, and both Load and Stop return only when the Cleanup of
// all modules of what they stopped has returned, also of a configuration that
// failed when it had begun to listen. Close of a listener of package net returns
// when the socket is closed, and whoever is second waits for the first.
//
// Connections from before are the old server's as ever: those that are kept or
// carry a response are meant to outlive a reload. So are those of HTTP/3, whose
// one socket all configurations share, as they do for TCP where there is no
// SO_REUSEPORT: there an old server may still accept a last connection.
type hangUp struct{ open []net.Listener }

func init() { caddy.RegisterModule(new(hangUp)) }

func (*hangUp) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.listeners.hang_up", New: func() caddy.Module { return new(hangUp) }}
}

func (*hangUp) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

// WrapListener implements caddy.ListenerWrapper.
func (h *hangUp) WrapListener(l net.Listener) net.Listener {
	l = closedOnce{l, sync.OnceValue(l.Close)}
	h.open = append(h.open, l)
	return l
}

// Cleanup implements caddy.CleanerUpper.
func (h *hangUp) Cleanup() error {
	for _, l := range h.open {
		_ = l.Close() // its server tells
	}
	return nil
}

type closedOnce struct {
	net.Listener
	close func() error
}

func (l closedOnce) Close() error { return l.close() }

// hangsUp adds the wrapper to each server of a configuration.
func hangsUp(cfg []byte) ([]byte, error) {
	var c map[string]any
	if err := json.Unmarshal(cfg, &c); err != nil {
		return nil, err
	}
	apps, _ := c["apps"].(map[string]any)
	web, _ := apps["http"].(map[string]any)
	servers, _ := web["servers"].(map[string]any)
	for _, s := range servers {
		s := s.(map[string]any)
		list, _ := s["listener_wrappers"].([]any)
		s["listener_wrappers"] = append(list, map[string]any{"wrapper": "hang_up"})
	}
	return json.Marshal(c)
}

// Whoever connects after a load gets an answer of that configuration, or of the
// one before if it failed, however it failed.
func TestLoadLeavesOneServer(t *testing.T) {
	g := newGateway(t, "", "respond first")
	client := &http.Transport{DisableKeepAlives: true}
	answers := func(want string) {
		t.Helper()
		for range 5 {
			resp, err := client.RoundTrip(g.request(t, "GET", "/", nil))
			if err != nil {
				t.Fatal(err)
			}
			if r := g.reply(resp); r.body != want {
				t.Fatalf("answered by %q, want %q", r.body, want)
			}
		}
	}
	for i := range 40 {
		name := fmt.Sprint("load ", i)
		g.load("", "respond `"+name+"`")
		answers(name)
		// The port of the upstream is taken, which is found out as it listens.
		taken := "}\nhttp://" + g.upstream.addr + " {\nrespond taken\n"
		if err := g.tryLoad(g.text("", "respond failed\n"+taken)); err == nil {
			t.Fatal("a configuration on a port that is taken")
		}
		answers(name)
		if err := caddy.Stop(); err != nil {
			t.Fatal(err)
		}
		if conn, err := net.Dial("tcp", g.addr); err == nil {
			conn.Close()
			t.Fatal("somebody listens after a stop")
		}
	}
}
