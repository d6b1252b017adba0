package caddymodule

import (
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// warnUnfilteredLogs names the logs that would show keys: Caddy hides
// Authorization and Cookie, and no other header.
func (a *App) warnUnfilteredLogs() {
	mod, err := a.ctx.AppIfConfigured("http")
	if err != nil {
		return
	}
	app := mod.(*caddyhttp.App)
	const advice = "requests in this log show API keys: add `format filter { request keytoll }` to it"
	if unfilteredLog(a.ctx, "http.log.error") {
		a.logger.Warn(advice, zap.String("log", "default (errors)"))
	}
	seen := make(map[string]bool)
	for _, srv := range app.Servers {
		for _, name := range accessLogs(srv) {
			if !seen[name] && unfilteredLog(a.ctx, name) {
				a.logger.Warn(advice, zap.String("log", name))
			}
			seen[name] = true
		}
	}
}

// accessLogs returns the names of a server's access loggers.
func accessLogs(srv *caddyhttp.Server) []string {
	if srv.Logs == nil {
		return nil
	}
	const prefix = "http.log.access"
	full := func(name string) string {
		if name == "" {
			return prefix
		}
		return prefix + "." + name
	}
	names := []string{full(srv.Logs.DefaultLoggerName)}
	for _, loggers := range srv.Logs.LoggerNames {
		for _, n := range loggers {
			names = append(names, full(n))
		}
	}
	return names
}
