// Package boltstore keeps keytoll's records in one bbolt file.
//
// # Files
//
//	keytoll.db          the database, mode 0600
//	keytoll.db.commits  the number of the last commit: tells of a lost one
//	master.key          the generated master key, unless another is configured
//
// A new database is built in a temporary file, synced and linked into place,
// so that a crash leaves a whole one or none. No file is ever replaced.
//
// # Buckets
//
//	meta         schema   → version, 4 bytes big endian
//	             check    → HMAC that tells whether the master key is right
//	             commits  → number of the last commit, 8 bytes big endian ‖ tag
//	tenants      id                → tenant record ‖ tag
//	keys         key id, 16 bytes  → key record ‖ tag
//	tenant_keys  tenant 0x00 key id → empty; lists the keys of a tenant
//	blobs        name              → value ‖ tag
//
// A tag is the first 16 bytes of HMAC-SHA-256, under a key derived from the
// master key, of the bucket's name, the id and the record: bbolt keeps no
// checksum of what it stores, and so a flipped bit, or a record moved to
// another id, would pass unseen. Tags are checked whenever a record is read.
//
// # Key record, version 1
//
//	 0  version, algorithm, status, 0     4 × uint8
//	 4  requests, burst                   2 × uint32
//	12  window, expires                   2 × int64
//	28  created, revoked                  2 × (int64 seconds, uint32 nanoseconds)
//	52  digest                            32 bytes
//	84  tenant, environment, name, prefix (uint16 length, bytes) each
//	    permissions                       uint16 count, then strings
//	    metadata                          uint16 count, then key and value strings
//
// Numbers are little endian. A tenant record has version and status, the time
// of its making, then id, name, plan and metadata.
//
// # Damage
//
// bbolt trusts its file: half a file makes it panic, an empty one is a new
// database, a bad meta page silently takes back the last commit. Open therefore
// runs guarded against panics and memory faults, walks all pages once to see
// that they lie within the file, runs bbolt's own check beside the loading, and
// compares the commit numbers. Whatever does not hold together is
// store.ErrDamaged.
package boltstore
