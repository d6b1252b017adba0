// Package boltstore keeps keytoll's records in one bbolt file.
//
// # Files
//
//	keytoll.db          the database, mode 0600
//	keytoll.db.commits  the number of the last commit: tells of a lost one
//	keytoll.db.revoked  what must never let a request in again; see Bury
//	master.key          the generated master key, unless another is configured
//
// A new database is built in a temporary file, synced and linked into place,
// so that a crash leaves a whole one or none. Only Compact and Restore replace
// it, by renaming.
//
// # Buckets
//
//	meta         schema   → version, 4 bytes big endian
//	             check    → HMAC that tells whether the root is right
//	             roots    → if the master key was replaced: for each that opens
//	                        the database its name, 16 bytes, and the root sealed
//	                        under it by AES-256-GCM, 72 bytes; then ‖ tag
//	             commits  → number of the last commit, that of the newest audit
//	                        record, 8 bytes big endian each ‖ tag
//	tenants      id                → tenant record ‖ tag
//	keys         key id, 16 bytes  → key record ‖ tag
//	tenant_keys  tenant 0x00 key id → empty; lists the keys of a tenant
//	blobs        name              → value ‖ tag
//	uses         key id            → use ‖ tag
//	audit        number, 8 bytes big endian → record ‖ tag
//	answers      id, 32 bytes      → end, 8 bytes big endian ‖ answer ‖ tag
//	answer_ends  end ‖ id          → empty
//	buried       number, 8 bytes big endian → digest ‖ tag; the newest entry of
//	             the .revoked file and those that it may lose in a power cut
//	usage        key               → value ‖ tag
//	provider_keys tenant 0x00 provider → provider key ‖ tag
//	data_keys    tenant            → data key ‖ tag
//
// The buckets from uses on came with schema version 2, the last two with 3. A
// database of an older version is read as it is and becomes one of version 3
// with its first change. Where meta has no number of an audit record the first
// change adds it.
//
// The root is the master key that the database was made with. All keys derive
// from it for good; see SetMasters.
//
// A tag is the first 16 bytes of HMAC-SHA-256, under a key derived from the
// root, of the bucket's name, the id and the record: bbolt keeps no
// checksum of what it stores, and so a flipped bit, or a record moved to
// another id, would pass unseen. Tags are checked whenever a record is read.
//
// # Key record, version 2
//
//	 0  version, algorithm, status, flags 4 × uint8
//	 4  requests, burst                   2 × uint32
//	12  window, expires                   2 × int64
//	28  created, revoked                  2 × (int64 seconds, uint32 nanoseconds)
//	52  digest                            32 bytes
//	84  tenant, environment               (uint16 length, bytes) each, as all strings
//	    rights                            uint16 length; nothing, or
//	                                      uint16 count, permissions; uint16 count,
//	                                      (uint8 length, address, uint8 bits) each
//	    previous digest, algorithm, since, until   if flag 1: 32 bytes, uint8, 2 × int64
//	    imported hint, hash               if flag 2: strings
//	    override                          if flag 8: requests, burst, concurrent, max_keys
//	                                      4 × uint32; window, credits, until 3 × int64
//	    rotated                           if flag 4: as created
//	    name, description, prefix         strings
//	    metadata                          uint16 count, then key and value strings
//
// Numbers are little endian. Version 1 has flags 0, and after the environment
// name, prefix, permissions and metadata; it is read and no longer written.
//
// A tenant record has version, status and flags, the time of its making, then
// id, name, plan, if flag 1 the permissions, if flag 2 the override as a key's,
// if flag 4 the grants, and metadata. The grants are a uint16 count, then id,
// int64 amount and expiry, note, and the time of its making each. A use is the
// time, uint8 length, address, agent.
//
// A provider key has version, uint8 1 if it was found valid, 2 zeros, the time of
// its making, int64 last use and verification, then tenant, provider, id, last
// four characters and what is sealed, each as strings are. A data key has
// version, 3 zeros, the time of its making, then tenant, wrapper and what is
// wrapped.
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
