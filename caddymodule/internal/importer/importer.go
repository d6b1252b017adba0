package importer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// Bounds of an import.
const (
	MaxLine   = 64 << 10 // bytes of a line
	BatchKeys = 25_000   // keys of a batch, unless fewer are asked for
	// BatchBytes is how many bytes of lines make a batch, if BatchKeys keys do
	// not. What Append writes of such a batch is less than 16 MiB.
	BatchBytes = 4 << 20
)

// Options is what Run works with.
type Options struct {
	// Sink stores a batch and returns what became of each key, in order. An error
	// ends the run. It must not keep the slice. Required.
	Sink func(context.Context, []registrar.ImportKey) ([]registrar.ImportResult, error)
	// Keys is the prefixes that are minted here: a key that starts with one but has
	// a wrong checksum is refused, since no gate would let it in.
	Keys token.Set
	// Salt, if set, is the one that all of the sha256 column were made with. It
	// stands before the key, or behind it if SaltSuffix is set.
	Salt       []byte
	SaltSuffix bool
	// Batch is how many keys make a batch, at most BatchKeys; 0 is BatchKeys.
	Batch int
	// Wire accepts the member line, as Append writes it.
	Wire bool
	// Refused is told of each line that is refused. It may be nil.
	Refused func(Refusal)
	// Progress is told how far the run is, after each batch. It may be nil.
	Progress func(Report)
}

// Refusal is one line that was not imported.
type Refusal struct {
	Line    int    `json:"line"`            // from 1, the header counted
	Field   string `json:"field,omitempty"` // the column at fault; may be empty
	Message string `json:"message"`
}

// Report is how much of a file was read and what became of it.
type Report struct {
	Lines   int `json:"lines"`   // with content, the header counted
	Created int `json:"created"` // or would be, in a dry run
	Skipped int `json:"skipped"` // there already
	Refused int `json:"refused"`
	// Unhinted is the keys with a salted or slow hash and no hint: an unknown key
	// may have to be tried against all of them.
	Unhinted int `json:"unhinted,omitempty"`
}

// Run imports all of src. A file that starts with '{' is NDJSON, any other is
// CSV with a header. Lines that are wrong are refused one by one; errors are
// those of the file as a whole: its header, reading it, or the Sink. The report
// counts what was done even then.
func Run(ctx context.Context, src io.Reader, o Options) (Report, error) {
	if o.Batch <= 0 || o.Batch > BatchKeys {
		o.Batch = BatchKeys
	}
	r := run{o: o, ctx: ctx, lines: newLines(src), batch: make([]registrar.ImportKey, 0, min(o.Batch, 256))}
	err := r.all()
	return r.report, err
}

type run struct {
	o      Options
	ctx    context.Context
	lines  *lines
	batch  []registrar.ImportKey
	bytes  int // of the batch's lines
	report Report
}

// parser reads one line into a draft.
type parser interface {
	parse(line []byte, d *draft) error
}

func (r *run) all() error {
	var p parser
	for {
		line, err := r.lines.next()
		switch {
		case err == io.EOF:
			if p == nil {
				return errors.New("the file is empty")
			}
			return r.flush()
		case err != nil && err != errLongLine:
			return errors.Join(r.flush(), fmt.Errorf("reading line %d: %w", r.lines.number+1, err))
		case err == nil && len(bytes.TrimSpace(line)) == 0:
			continue
		}
		r.report.Lines++
		if p == nil {
			header, err := r.begin(line, err)
			if err != nil {
				return err
			}
			p = header
			if _, csv := p.(*csvParser); csv {
				continue
			}
		}
		if err := r.one(p, line, err); err != nil {
			return err
		}
	}
}

// begin tells the format by the first line.
func (r *run) begin(line []byte, err error) (parser, error) {
	if err == nil && line[0] == '{' {
		return &jsonParser{wire: r.o.Wire}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("line %d: %w", r.lines.number, err)
	}
	p, err := newCSVParser(line)
	if err != nil {
		return nil, fmt.Errorf("line %d, the header: %w", r.lines.number, err)
	}
	return p, nil
}

// one reads a line into the batch, or refuses it.
func (r *run) one(p parser, line []byte, err error) error {
	d := draft{o: &r.o}
	d.key.Line = r.lines.number
	if err == nil {
		err = utf8Error(line)
	}
	if err == nil {
		err = p.parse(line, &d)
	}
	if err == nil {
		err = d.finish()
	}
	if err != nil {
		r.refuse(refusal(d.key.Line, err))
		return nil
	}
	if d.key.Hash != "" && d.key.Hint == "" {
		r.report.Unhinted++
	}
	r.batch = append(r.batch, d.key)
	r.bytes += len(line)
	if len(r.batch) < r.o.Batch && r.bytes < BatchBytes {
		return nil
	}
	return r.flush()
}

func utf8Error(line []byte) error {
	if utf8.Valid(line) {
		return nil
	}
	return errors.New("not UTF-8")
}

func (r *run) refuse(f Refusal) {
	r.report.Refused++
	if r.o.Refused != nil {
		r.o.Refused(f)
	}
}

// flush hands the batch to the sink and counts what became of it.
func (r *run) flush() error {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	if len(r.batch) == 0 {
		return nil
	}
	results, err := r.o.Sink(r.ctx, r.batch)
	if err == nil && len(results) != len(r.batch) {
		err = fmt.Errorf("%d keys were answered with %d results", len(r.batch), len(results))
	}
	if err != nil {
		return fmt.Errorf("importing lines %d to %d: %w", r.batch[0].Line, r.batch[len(r.batch)-1].Line, err)
	}
	for i, res := range results {
		switch {
		case res.Err != nil:
			r.refuse(Refusal{Line: r.batch[i].Line, Field: res.Err.Field, Message: r.o.Keys.Redact(res.Err.Message)})
		case res.Skipped:
			r.report.Skipped++
		default:
			r.report.Created++
		}
	}
	clear(r.batch)
	r.batch, r.bytes = r.batch[:0], 0
	if r.o.Progress != nil {
		r.o.Progress(r.report)
	}
	return nil
}
