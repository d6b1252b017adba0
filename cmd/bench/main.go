package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	keys, rounds, conns int
	round               time.Duration
	variants            string
	seed                uint64
	check               bool
	margin              float64
	caddy               string
}

// errMissed is returned by -check.
var errMissed = errors.New("a limit was missed")

func main() {
	if len(os.Args) == 2 && os.Args[1] == upstreamWord {
		if err := serveUpstream(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "bench upstream:", err)
			os.Exit(1)
		}
		return
	}
	o, err := parseOptions(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		err = run(ctx, o, os.Stdout, os.Stderr)
		stop()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parseOptions(args []string, stderr io.Writer) (*options, error) {
	o := new(options)
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.IntVar(&o.keys, "keys", 1000, "keys in the store")
	f.IntVar(&o.rounds, "rounds", 30, "rounds of each variant")
	f.DurationVar(&o.round, "round", 300*time.Millisecond, "length of a round")
	f.IntVar(&o.conns, "conns", 16, "connections to each proxy")
	f.StringVar(&o.variants, "variants", "", "comma-separated variants, their bases are added; default all: "+variantNames())
	f.Uint64Var(&o.seed, "seed", 0, "of the order, the keys used and the intervals; 0 takes one from the clock")
	f.BoolVar(&o.check, "check", false, "exit with 1 if a limit is missed")
	f.Float64Var(&o.margin, "margin", 0.03, "how far a ratio may be over its limit, as a share of it")
	f.StringVar(&o.caddy, "caddy", "", "proxy to run; default: build cmd/caddy")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	switch {
	case f.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	case o.keys < 1 || o.keys > 10_000_000:
		return nil, fmt.Errorf("-keys %d: want 1 to 10000000", o.keys)
	case o.rounds < 2 || o.rounds > 10_000:
		return nil, fmt.Errorf("-rounds %d: want 2 to 10000", o.rounds)
	case o.conns < 1 || o.conns > 1000:
		return nil, fmt.Errorf("-conns %d: want 1 to 1000", o.conns)
	case o.round < 10*time.Millisecond || o.round > time.Minute:
		return nil, fmt.Errorf("-round %s: want 10ms to 1m", o.round)
	case !(o.margin >= 0 && o.margin <= 1):
		return nil, fmt.Errorf("-margin %g: want 0 to 1", o.margin)
	}
	if o.seed == 0 {
		o.seed = uint64(time.Now().UnixNano())
	}
	return o, nil
}

// run does it all and leaves nothing behind.
func run(ctx context.Context, o *options, out, progress io.Writer) error {
	chosen, err := selectVariants(o.variants)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "keytoll-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	printHead(out, o)
	s := &setup{dir: dir, caddy: o.caddy, store: filepath.Join(dir, "seed")}
	if s.caddy == "" {
		fmt.Fprintln(progress, "building cmd/caddy …")
		if s.caddy, err = buildCaddy(ctx, dir); err != nil {
			return err
		}
	}
	good, bad, err := s.prepare(ctx, o, progress)
	if err != nil {
		return err
	}
	upstream, stop, err := startUpstream(ctx)
	if err != nil {
		return err
	}
	defer stop()
	s.upstream = upstream
	procs, err := s.startAll(ctx, chosen, o, good, bad)
	defer func() {
		for _, p := range procs {
			p.stop()
		}
	}()
	if err != nil {
		return err
	}
	fmt.Fprintf(progress, "measuring %d variants, about %s …\n", len(procs), (time.Duration(o.rounds+1) * o.round * time.Duration(len(procs))).Round(time.Second))
	rng := rand.New(rand.NewPCG(o.seed, 1))
	if err := measure(ctx, procs, o, rng); err != nil {
		return err
	}
	rows := results(procs, o, rng)
	printTable(out, rows, o)
	printLegend(out, rows, o)
	return verdict(rows, o)
}

func verdict(rows []result, o *options) error {
	if !o.check {
		return nil
	}
	for i := range rows {
		if _, ok := rows[i].verdict(o.margin); !ok {
			return errMissed
		}
	}
	return nil
}

func buildCaddy(ctx context.Context, dir string) (string, error) {
	bin := filepath.Join(dir, "caddy")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", bin, "github.com/keytoll/keytoll/cmd/caddy")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building cmd/caddy: %w\n%s", err, text)
	}
	return bin, nil
}

// prepare fills the store. It returns its keys and some that are not in it.
func (s *setup) prepare(ctx context.Context, o *options, progress io.Writer) (good, bad *keyring, err error) {
	master, err := newMaster()
	if err != nil {
		return nil, nil, err
	}
	s.master = master.Text()
	fmt.Fprintf(progress, "making a store of %d keys …\n", o.keys)
	if good, err = mintAll(o.keys); err != nil {
		return nil, nil, err
	}
	if bad, err = mintAll(min(o.keys, 100_000)); err != nil {
		return nil, nil, err
	}
	return good, bad, seed(ctx, s.store, master, good)
}

// startAll starts and connects the variants. With an error it returns those
// that run.
func (s *setup) startAll(ctx context.Context, chosen []*variant, o *options, good, bad *keyring) ([]*process, error) {
	var procs []*process
	for i, v := range chosen {
		keys := good
		if v.status() == http.StatusUnauthorized {
			keys = bad
		}
		p, err := s.start(ctx, v, keys.at(0))
		if err != nil {
			return procs, err
		}
		procs = append(procs, p)
		if p.client, err = dialAll(ctx, p.addr, o.conns, keys, v.status(), o.seed+uint64(i)); err != nil {
			return procs, err
		}
	}
	return procs, nil
}
