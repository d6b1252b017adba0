package access

import (
	"encoding/json"
	"time"
)

// AuditEntry is one change that was made: by whom, when, to what. It never
// holds a secret or a digest.
type AuditEntry struct {
	Seq    uint64    `json:"seq"`              // 1 and up, without gaps
	At     time.Time `json:"at"`               // in whole seconds
	Action string    `json:"action"`           // what was done, such as key.created
	Tenant string    `json:"tenant,omitempty"` // whose object it is
	Object string    `json:"object"`           // id of the key or tenant; another thing's name
	Actor  Actor     `json:"actor"`

	Before json.RawMessage `json:"before,omitempty"` // the object as it was; absent if it is new
	After  json.RawMessage `json:"after,omitempty"`  // the object as it is; absent if it is gone
}

// Actor is who made a change.
type Actor struct {
	Kind    string `json:"kind"`              // operator, key or system
	Name    string `json:"name,omitempty"`    // the operator's or the job's name
	Key     string `json:"key,omitempty"`     // id of the key, if Kind is key
	Address string `json:"address,omitempty"` // of the client
}

// The kinds of actors.
const (
	ActorOperator = "operator" // the admin API or the command line
	ActorKey      = "key"      // the holder of a key, through keytoll_api
	ActorSystem   = "system"   // keytoll itself, such as an expiry for want of use
)
