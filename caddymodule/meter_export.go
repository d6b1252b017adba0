package caddymodule

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/keytoll/keytoll/caddymodule/internal/engine"
	rollup "github.com/keytoll/keytoll/caddymodule/internal/usage"
)

// exportEvery is how often an export looks for what was flushed.
const exportEvery = 30 * time.Second

// startExport sends usage where the configuration says until stop, which waits
// for a sending that is under way to be given up. Of several configurations
// only the newest exports, and none if it says so.
func (a *App) startExport(m *engine.Metering) (stop func()) {
	if m == nil {
		return func() {}
	}
	if a.export == nil {
		return m.Exports.Start(nil)
	}
	tick := time.NewTicker(exportEvery)
	end := m.Exports.Start(func(ctx context.Context) { a.runExport(ctx, m, tick.C) })
	return func() {
		end()
		tick.Stop()
	}
}

// runExport exports until ctx ends. What is wrong is logged, and tried again.
func (a *App) runExport(ctx context.Context, m *engine.Metering, ticks <-chan time.Time) {
	for ctx.Err() == nil {
		e, err := a.exporter(ctx, m)
		if err == nil {
			e.Run(ctx, ticks)
			return
		}
		a.meterTrouble(err)
		select {
		case <-ctx.Done():
		case <-ticks:
		}
	}
}

// exporter makes an exporter that goes on where the last one to the same place
// ended.
func (a *App) exporter(ctx context.Context, m *engine.Metering) (*rollup.Exporter, error) {
	t := a.export
	var sink rollup.Sink = exportFile{t.file}
	if t.file == "" {
		header := make(http.Header)
		if t.header != "" {
			header.Set(t.header, t.value)
		}
		var err error
		if sink, err = rollup.NewHTTPSink(rollup.HTTPOptions{URL: t.url, Header: header}); err != nil {
			return nil, err
		}
	}
	installation := a.engine.Load().Installation()
	return rollup.NewExporter(ctx, rollup.ExportOptions{
		Name: t.place(), Recorder: m.Usage, Sink: sink, OnError: a.meterTrouble,
		Source: "urn:keytoll:" + hex.EncodeToString(installation[:]),
	})
}

// place names where an export goes, for logs and to find how far it got. Of a
// URL, which may hold a secret, it has the host and a digest.
func (t *exportTarget) place() string {
	if t.file != "" {
		return "file " + t.file
	}
	host := ""
	if u, err := url.Parse(t.url); err == nil {
		host = u.Host
	}
	sum := sha256.Sum256([]byte(t.url))
	return "http " + host + " " + hex.EncodeToString(sum[:8])
}

// exportFile is the sink of a file. It has the file open only while it writes:
// nobody tells a sink that its exporter has ended, and a file that was moved
// away is made anew.
type exportFile struct{ path string }

// Send implements rollup.Sink.
func (f exportFile) Send(ctx context.Context, events []rollup.Event) (err error) {
	fd, err := os.OpenFile(f.path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600) // read, to see how it ends
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fd.Close()) }()
	if info, err := fd.Stat(); err != nil || !info.Mode().IsRegular() {
		return errors.Join(err, fmt.Errorf("%s is not a regular file", f.path))
	}
	return rollup.NewFileSink(fd).Send(ctx, events)
}
