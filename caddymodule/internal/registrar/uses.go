package registrar

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// useBatch is how many uses one transaction stores, so that others get their
// turn.
const useBatch = 1000

// RecordUses stores the last uses of keys, a thousand in each transaction;
// keys that are gone are passed over. It is no change for the audit trail. At
// an error some may be stored: the same uses may be given again. Errors:
// Unavailable.
func (r *Registrar) RecordUses(ctx context.Context, uses map[access.KeyID]access.Use) error {
	ids := slices.SortedFunc(maps.Keys(uses), func(a, b access.KeyID) int { return bytes.Compare(a[:], b[:]) })
	for batch := range slices.Chunk(ids, useBatch) {
		err := r.o.Store.Update(ctx, func(tx store.Tx) error {
			for _, id := range batch {
				u := uses[id]
				u.Agent = clipAgent(u.Agent)
				if err := tx.PutUse(id, u); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return public("storing last uses", err)
		}
	}
	return nil
}

func clipAgent(s string) string {
	if len(s) > access.MaxAgent {
		s = s[:access.MaxAgent]
	}
	return strings.ToValidUTF8(s, "")
}
