package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	allocRounds   = 3
	allocRequests = 4000
	settleTime    = 60 * time.Second
)

// measure runs the rounds. Each has one turn of every process, in random order.
func measure(ctx context.Context, procs []*process, o *options, rng *rand.Rand) error {
	if err := settle(ctx, procs); err != nil {
		return err
	}
	for round := range o.rounds + 1 {
		for _, i := range rng.Perm(len(procs)) {
			if err := procs[i].round(ctx, o.round, round > 0); err != nil {
				return fmt.Errorf("%s: %w", procs[i].name, err)
			}
		}
	}
	for range allocRounds {
		for _, i := range rng.Perm(len(procs)) {
			if err := procs[i].countAllocs(ctx); err != nil {
				return fmt.Errorf("%s: %w", procs[i].name, err)
			}
		}
	}
	return nil
}

// settle waits until the processes have done what they do after their start,
// such as checking a large store.
func settle(ctx context.Context, procs []*process) error {
	end := time.Now().Add(settleTime)
	for _, p := range procs {
		for busy := true; busy && time.Now().Before(end); {
			before, err := cpuTime(p.pid)
			if err != nil {
				return err
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(50 * time.Millisecond):
			}
			after, err := cpuTime(p.pid)
			if err != nil {
				return err
			}
			busy = after-before > 5*time.Millisecond
		}
	}
	return nil
}

// round loads the process for a while and, unless it warms up, keeps what it
// cost.
func (p *process) round(ctx context.Context, d time.Duration, keep bool) error {
	before, err := cpuTime(p.pid)
	if err != nil {
		return err
	}
	n, times, err := p.client.run(ctx, d, maxPerRound)
	if err != nil {
		return err
	}
	after, err := cpuTime(p.pid)
	if err != nil {
		return err
	}
	rss, err := resident(p.pid)
	if err != nil {
		return err
	}
	if keep {
		p.samples = append(p.samples, sample{after - before, n})
		p.times = append(p.times, times...)
		p.rss = append(p.rss, rss)
	}
	return nil
}

// countAllocs counts allocations over a number of requests. Reading the
// counter allocates too: it is read twice before, to know how much.
func (p *process) countAllocs(ctx context.Context) error {
	var count [3]uint64
	requests := 0
	for i := range count {
		if i == 2 {
			var err error
			if requests, _, err = p.client.run(ctx, time.Minute, allocRequests/len(p.client.conns)+1); err != nil {
				return err
			}
		}
		var err error
		if count[i], err = p.mallocs(ctx); err != nil {
			return err
		}
	}
	reading := count[1] - count[0]
	p.allocs = append(p.allocs, (float64(count[2]-count[1])-float64(reading))/float64(requests))
	return nil
}
