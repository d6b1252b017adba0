package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bounds of one request.
const (
	maxAnswer = 1 << 20 // bytes
	patience  = 30 * time.Second
)

// Options say where a file is run and with what.
type Options struct {
	// BaseURL is what the paths are put after: http or https, a host, and
	// perhaps a path.
	BaseURL string
	// Vars are values of variables, in place of the file's.
	Vars map[string]string
	// Client sends the requests, without its redirects. Default: one of its own
	// that uses the proxy of the environment.
	Client *http.Client
	// Env looks a variable of the environment up. Default: os.LookupEnv.
	Env func(string) (string, bool)
}

// run is the state of one Run.
type run struct {
	file   *File
	base   string
	client *http.Client
	vars   map[string]string
	hidden []string // values that are never printed
}

// Run sends the requests of f in their order and compares the answers. Steps
// that differ do not end the run. An error is for options that do not fit the
// file: a base URL that is none, a variable without a value or that the file
// does not have. Once ctx ends, the steps that are left differ by that.
func Run(ctx context.Context, f *File, o Options) (*Report, error) {
	base, err := checkBase(o.BaseURL)
	if err != nil {
		return nil, err
	}
	r := &run{file: f, base: base, client: own(o.Client)}
	if err := r.variables(o); err != nil {
		return nil, err
	}
	rep := &Report{Name: f.Name, Source: f.Source}
	for i := range f.steps {
		s := &f.steps[i]
		res := StepResult{Name: s.name, Sentence: s.sentence, Skipped: s.later}
		if s.later == "" {
			res.Differences = r.step(ctx, s)
		}
		rep.Steps = append(rep.Steps, res)
	}
	return rep, nil
}

func checkBase(base string) (string, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return "", errors.New("the base URL must be http:// or https://, a host and perhaps a path")
	}
	return strings.TrimSuffix(base, "/"), nil
}

// own returns a client that follows no redirect and asks for no compression.
func own(c *http.Client) *http.Client {
	out := http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableCompression: true}}
	if c != nil {
		out = *c
	}
	out.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &out
}

// variables gives each variable its value: the option's, or the file's.
func (r *run) variables(o Options) error {
	for _, name := range slices.Sorted(maps.Keys(o.Vars)) {
		if _, ok := r.file.vars[name]; !ok {
			return fmt.Errorf("the file has no variable %s: it has %s", name, strings.Join(slices.Sorted(maps.Keys(r.file.vars)), ", "))
		}
	}
	env := o.Env
	if env == nil {
		env = os.LookupEnv
	}
	r.vars = make(map[string]string)
	for _, name := range slices.Sorted(maps.Keys(r.file.vars)) {
		value, given := o.Vars[name]
		if !given {
			value = r.file.vars[name]
			if of, ok := strings.CutPrefix(value, "{env."); ok && strings.HasSuffix(of, "}") {
				value, _ = env(strings.TrimSuffix(of, "}"))
			}
		}
		if value == "" && !given {
			return fmt.Errorf("variable %s has no value", name)
		}
		r.set(name, value)
	}
	return nil
}

// set keeps a variable, and hides its value if the file says so.
func (r *run) set(name, value string) {
	r.vars[name] = value
	if slices.Contains(r.file.secrets, name) {
		r.hide(value)
	}
}

// hide keeps a value, in whatever way it may be written, out of the report.
func (r *run) hide(value string) {
	quoted, _ := json.Marshal(value)
	for _, form := range []string{value, strings.Trim(string(quoted), `"`), strings.Trim(strconv.Quote(value), `"`),
		url.QueryEscape(value), url.PathEscape(value)} {
		if form != "" && !slices.Contains(r.hidden, form) {
			r.hidden = append(r.hidden, form)
		}
	}
	// The longest first, so that no part of one is left.
	slices.SortFunc(r.hidden, func(a, b string) int { return len(b) - len(a) })
}

// step sends a step as often as it says.
func (r *run) step(ctx context.Context, s *step) []Difference {
	out := r.sends(ctx, s)
	for i := range out {
		out[i] = Difference{r.redact(out[i].Where), r.redact(out[i].Want), r.redact(out[i].Got)}
	}
	return out
}

func (r *run) sends(ctx context.Context, s *step) []Difference {
	for n := 1; ; n++ {
		out := r.once(ctx, s)
		switch {
		case s.attempts > 1:
			if len(out) == 0 || n == s.attempts || ctx.Err() != nil {
				return out
			}
		case len(out) > 0:
			if s.repeat > 1 {
				out[0].Where = fmt.Sprintf("%s (request %d of %d)", out[0].Where, n, s.repeat)
			}
			return out
		case n == s.repeat:
			return nil
		}
	}
}

// clean takes out what must not be printed.
func (r *run) clean(s string) string {
	for _, h := range r.hidden {
		s = strings.ReplaceAll(s, h, "[…]")
	}
	return s
}

// redact cleans s and cuts what is too long.
func (r *run) redact(s string) string {
	const most = 400
	s = r.clean(s)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
	long   bool // the body was cut at maxAnswer
}

func (r *run) once(ctx context.Context, s *step) []Difference {
	if missing := r.missing(s); missing != "" {
		return []Difference{{"variable " + missing, "a value", "none: the step that saves it did not"}}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	req, err := r.build(ctx, s)
	if err != nil {
		return []Difference{{"request", "a request", err.Error()}}
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return []Difference{{"answer", "an answer", err.Error()}}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return []Difference{{"body", "a whole body", err.Error()}}
	}
	a := &answer{status: resp.StatusCode, header: resp.Header, body: body}
	if len(body) > maxAnswer {
		a.body, a.long = body[:maxAnswer], true
	}
	return r.judge(s, a)
}

// missing names a variable that the step needs and that nothing saved.
func (r *run) missing(s *step) string {
	for _, t := range s.texts() {
		for _, name := range t.variables() {
			if _, ok := r.vars[name]; !ok {
				return name
			}
		}
	}
	return ""
}
