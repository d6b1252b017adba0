package caddymodule

import (
	"fmt"
	"runtime/debug"

	"go.uber.org/zap"
)

// minMemoryLimit keeps the collector from running all the time.
const minMemoryLimit = 64 << 20

func (g *GC) validate() error {
	if g == nil {
		return nil
	}
	if g.Percent < 50 || g.Percent > 1000 {
		return fmt.Errorf("gc: want a percentage from 50 to 1000, not %d", g.Percent)
	}
	if g.MemoryLimit < minMemoryLimit {
		return fmt.Errorf("gc: want a memory limit of at least 64MiB, not %d bytes", g.MemoryLimit)
	}
	return nil
}

// apply sets the values for the whole process. They stay until another
// configuration sets others.
func (g *GC) apply(l *zap.Logger) {
	if g == nil {
		return
	}
	debug.SetGCPercent(g.Percent)
	debug.SetMemoryLimit(g.MemoryLimit)
	l.Info("garbage collector set", zap.Int("percent", g.Percent), zap.Int64("memory_limit", g.MemoryLimit))
}
