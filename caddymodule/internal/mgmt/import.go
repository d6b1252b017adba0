package mgmt

import (
	"bytes"
	"errors"
	"net/url"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// loading is an import that is under way.
type loading struct {
	*call
	o      registrar.ImportOptions
	ours   bool // the header names this installation
	batch  []registrar.ImportKey
	report *ImportReport
}

// options reads the query.
func (l *loading) options() error {
	values, err := url.ParseQuery(l.URL.RawQuery)
	if err != nil {
		return badRequest("", "the query is not well formed")
	}
	for n, v := range values {
		to, ok := map[string]*bool{"dry_run": &l.o.DryRun, "create_tenants": &l.o.CreateTenants}[n]
		if !ok {
			return badRequest(clip(n), "there is no parameter %q here", clip(n))
		}
		if len(v) != 1 || v[0] != "true" && v[0] != "false" {
			return badRequest(n, "the parameter %s wants true or false", n)
		}
		*to = v[0] == "true"
	}
	return nil
}

// line takes one line. What is wrong with it goes into the report; the error is
// one that ends the import.
func (l *loading) line(at int, text []byte) error {
	var line Line
	err := l.read(at, text, &line)
	if err == nil && line.Type == lineTenant {
		if err = l.flush(); err != nil {
			return err
		}
		err = l.tenant(&line)
	}
	if err == nil && len(l.batch) >= registrar.MaxImport {
		return l.flush()
	}
	return l.note(at, err)
}

// note puts a refusal into the report.
func (l *loading) note(at int, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		l.report.Errors = append(l.report.Errors, ImportError{Line: at, Field: e.Field, Message: e.Message})
		return nil
	}
	if e, ok := errors.AsType[*registrar.Error](err); ok && e.Code != registrar.Unavailable {
		l.report.Errors = append(l.report.Errors, ImportError{Line: at, Field: e.Field, Message: e.Message})
		return nil
	}
	return err
}

func (l *loading) read(at int, text []byte, line *Line) error {
	if len(text) > maxBody {
		return badRequest("", "the line is longer than %d bytes", maxBody)
	}
	if text[0] != '{' || bytes.ContainsRune(text, 0) {
		return badRequest("", "the line is not a JSON object")
	}
	if err := unmarshal(text, line); err != nil {
		return err
	}
	switch {
	case line.Export != 0:
		return l.head(line)
	case line.Type == lineEnd, line.Type == lineTenant:
		return nil
	case line.Type != "" && line.Type != lineKey:
		return badRequest("type", "unknown type %q: want tenant or key", clip(line.Type))
	}
	k, err := l.key(at, line)
	if err == nil {
		l.batch = append(l.batch, k)
	}
	return err
}

func (l *loading) head(line *Line) error {
	if line.Export != exportVersion {
		return badRequest("keytoll_export", "an export of version %d: this keytoll reads version %d", line.Export, exportVersion)
	}
	l.ours = line.Installation != "" && line.Installation == l.door.installation()
	return nil
}

// tenant makes a tenant, or leaves one that is there as it is.
func (l *loading) tenant(line *Line) error {
	status, err := parseStatus(&line.Status)
	if line.Status == "" {
		status, err = new(access.StatusActive), nil
	}
	if err != nil || l.o.DryRun {
		return err
	}
	ctx := l.Context()
	_, err = l.CreateTenant(ctx, registrar.CreateTenantRequest{ID: line.ID, Name: line.Name, Plan: line.Plan,
		Permissions: line.Permissions, Metadata: line.Metadata})
	if e, ok := errors.AsType[*registrar.Error](err); ok && e.Code == registrar.Exists {
		return nil
	}
	if err != nil || *status == access.StatusActive {
		return err
	}
	_, err = l.UpdateTenant(ctx, line.ID, registrar.TenantUpdate{Status: status})
	return err
}

// flush imports the batch.
func (l *loading) flush() error {
	if len(l.batch) == 0 {
		return nil
	}
	results, err := l.Import(l.Context(), l.batch, l.o)
	if err != nil {
		return err
	}
	l.batch = l.batch[:0]
	for _, r := range results {
		switch {
		case r.Err != nil:
			l.report.Errors = append(l.report.Errors, ImportError{Line: r.Line, Field: r.Err.Field, Message: r.Err.Message})
		case r.Skipped:
			l.report.Skipped++
			l.report.SkippedLines = append(l.report.SkippedLines, r.Line)
		default:
			l.report.Created++
		}
	}
	return nil
}

// key reads a line of a key. Digests of the installation's own kind are worth
// nothing elsewhere, because its master key is in them.
func (l *loading) key(at int, line *Line) (registrar.ImportKey, error) {
	k, err := line.importKey(at)
	if err != nil || line.Digest == "" {
		return k, err
	}
	sum, err := digest("digest", line.Digest)
	switch {
	case err != nil:
		return k, err
	case line.Alg == token.AlgSHA256:
		k.SHA256 = sum
		return k, nil
	case !l.ours:
		return k, badRequest("digest", "digest: it was made with another installation's master key, or the export's header line is missing")
	case line.Alg == token.AlgHMAC:
		k.Digest = sum
		return k, nil
	}
	return k, badRequest("alg", "alg %d is not one whose digests can be imported", line.Alg)
}
