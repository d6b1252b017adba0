package mgmt

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

// ImportOptions says how an import works.
type ImportOptions struct {
	DryRun        bool // check everything, change nothing
	CreateTenants bool // make the tenants that are not there
}

// Audit returns a page of the audit trail, oldest first. A page may be short or
// empty and have a Next all the same.
func (c *Client) Audit(f AuditFilter, p Page) (AuditList, error) {
	q := map[string]string{"tenant": f.Tenant, "object": f.Object, "action": f.Action, "actor": f.Actor}
	for name, t := range map[string]time.Time{"since": f.Since, "until": f.Until} {
		if !t.IsZero() {
			q[name] = t.UTC().Format(time.RFC3339)
		}
	}
	return ask[AuditList](c, http.MethodGet, "/audit"+p.query(q), nil)
}

// VerifyAudit checks that no audit entry was changed, taken out or moved.
func (c *Client) VerifyAudit() (AuditCheck, error) {
	return ask[AuditCheck](c, http.MethodGet, "/audit/verify", nil)
}

// Backup writes a copy of the store to w and returns its length in bytes. After
// an error what was written is worth nothing.
func (c *Client) Backup(w io.Writer) (int64, error) { return c.stream("/backup", w) }

// Export writes all tenants and keys to w, one Line a line, and returns the
// bytes. It ends with a line of type end.
func (c *Client) Export(w io.Writer) (int64, error) { return c.stream("/export", w) }

func (c *Client) stream(path string, w io.Writer) (int64, error) {
	resp, err := c.open(http.MethodGet, path, http.Header{}, nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	n, err := io.Copy(w, resp.Body)
	if err != nil {
		return n, fmt.Errorf("the answer ended early: %w", err)
	}
	return n, nil
}

// ImportLines sends lines of an export or of keys, at most 16 MiB at a time. The
// header line of an export must be the first line of each part.
func (c *Client) ImportLines(lines []byte, o ImportOptions) (ImportReport, error) {
	var report ImportReport
	path := fmt.Sprintf("/import?dry_run=%t&create_tenants=%t", o.DryRun, o.CreateTenants)
	err := c.send(http.MethodPost, path, http.Header{"Content-Type": {ndjson}}, lines, &report)
	return report, err
}

// Import sends keys, in as many parts as it takes, and returns what became of
// each, in their order. The ids of new keys are not among that.
func (c *Client) Import(keys []registrar.ImportKey, o ImportOptions) ([]registrar.ImportResult, error) {
	var results []registrar.ImportResult
	for len(keys) > 0 {
		var part bytes.Buffer
		n := 0
		for ; n < len(keys); n++ {
			line, err := json.Marshal(importLine(&keys[n]))
			if err != nil {
				return results, fmt.Errorf("encoding line %d: %w", keys[n].Line, err)
			}
			if n > 0 && part.Len()+len(line) >= maxImport {
				break
			}
			part.Write(append(line, '\n'))
		}
		report, err := c.ImportLines(part.Bytes(), o)
		if err != nil {
			return results, err
		}
		results = append(results, report.results(keys[:n])...)
		keys = keys[n:]
	}
	return results, nil
}

// results says what became of each of the keys that were the lines of one
// request.
func (r *ImportReport) results(keys []registrar.ImportKey) []registrar.ImportResult {
	out := make([]registrar.ImportResult, len(keys))
	for i := range keys {
		out[i].Line = keys[i].Line
	}
	for _, at := range r.SkippedLines {
		if at >= 1 && at <= len(out) {
			out[at-1].Skipped = true
		}
	}
	for _, e := range r.Errors {
		if e.Line >= 1 && e.Line <= len(out) {
			out[e.Line-1].Err = &registrar.Error{Code: registrar.InvalidRequest, Field: e.Field, Message: e.Message}
		}
	}
	return out
}
