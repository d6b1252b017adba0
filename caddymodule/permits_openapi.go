package caddymodule

import (
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/keytoll/keytoll/caddymodule/internal/openapi"
)

// maxDescription bounds an OpenAPI file, in bytes.
const maxDescription = 32 << 20

// operations reads an OpenAPI file and returns what tells the needs of a
// request.
func (h *Handler) operations(file, base string) (func(*http.Request) ([]string, bool), error) {
	text, err := readDescription(file)
	if err != nil {
		return nil, fmt.Errorf("reading the OpenAPI description: %w", err)
	}
	doc, err := openapi.Load(text, base)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	var names []string
	for _, o := range doc.Operations() {
		if len(h.app.Permissions) > 0 {
			if err := checkOperation(h.app.permissions, o, o.Needs); err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
		}
		names = append(names, o.Needs...)
	}
	if err := h.app.adopt(names); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return func(r *http.Request) ([]string, bool) { return doc.Match(r.Method, r.URL.Path) }, nil
}

// readDescription reads a file whose errors name it.
func readDescription(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxDescription+1))
	if err == nil && len(text) > maxDescription {
		err = fmt.Errorf("%s is larger than 32 MiB", file)
	}
	return text, err
}
