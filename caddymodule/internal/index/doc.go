// Package index holds every key and tenant in memory, so that no request
// touches the store.
//
// # Structure
//
// Keys are fixed-size records without pointers in a slab of chunks, which the
// garbage collector never scans. Two open-addressing tables of atomic words
// (32 bits of hash, 32 bits of record number) find them by digest and by id.
// Previous secrets and the plain SHA-256 of imported ones have tables of their
// own, which cost a word while they are empty; keys of which only the store has
// a hash are found by what their secret starts with, under a lock.
// What many keys share (tenants, rates, rights, environments) stands once, in small
// slabs that a record refers to by number. The few keys with an override have a
// place of their own, to which the record's number of the environment leads. One
// writer follows the store; readers take no lock, do not allocate and never wait
// for it, but for the few that a move passed by: see Index.Still.
//
// # What a reader may rely on
//
// A record never moves: its bucket is the one bucket of its key, through
// growth, rotation and changes of status, rate or expiry. A Record that was
// deleted while somebody holds it says revoked and has no tenant, at once and
// for at least an hour. Only then may it become another key. So a *Record is
// for the decision on one request: whoever works longer, such as a stream,
// copies the ID and the Tenant first.
//
// # Memory
//
// A record takes 88 bytes and its words in the tables 24 to 48, so a million
// keys need some 125 MB. The slab holds the most keys that ever lived
// at once, plus those deleted within the last hour; a table is rebuilt to size
// when two thirds of its words have been used.
package index
