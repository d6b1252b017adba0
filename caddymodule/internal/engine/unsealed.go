package engine

import (
	"time"

	"github.com/keytoll/keytoll/caddymodule/internal/provider"
)

// How many stored provider keys are kept unsealed, and for how long after their
// last use.
const (
	maxUnsealed  = 10_000
	unsealedLife = 10 * time.Minute
)

func newUnsealed() *provider.Cache { return provider.NewCache(maxUnsealed, unsealedLife, time.Now) }

// Verdict is what became of asking a provider about a key.
type Verdict int

// The verdicts, for Counts.Verified.
const (
	VerdictValid Verdict = iota
	VerdictInvalid
	VerdictUnknown // the provider gave no answer to conclude from
)
