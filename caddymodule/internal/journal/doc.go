// Package journal keeps records in a file that is mapped into memory, from the
// moment in which they are counted until a database has them.
//
// # Promises
//
// A record is written into mapped pages and published by one atomic store. The
// kernel has it from then on:
//
//   - The end of the process, kill -9 included, loses no record that
//     [File.Append] has returned true for.
//   - The end of the machine (a power cut) loses at most what came after the
//     last [File.Sync] that ended.
//   - No record is ever read that was not written whole, and none twice after a
//     [Position] that is past it.
//
// Append never waits: not for the disk, not for a reader, not for room. Where
// there is none it returns false, and the caller has to keep the record.
//
// Files are mapped on linux and other unix systems. Elsewhere Open returns
// ErrUnsupported.
//
// # File
//
//	   0  magic, version uint32, byte order mark uint32, id of the storage 8
//	      bytes, length of a segment uint32, zeros; CRC-32C at 60
//	4096  segments of 128 KiB, each of slots of 64 bytes
//
// The first slot of a segment that is in use has its sequence uint64, the id of
// the storage 8 bytes and a sum uint32. Sequences only ever grow. A segment of
// zeros is not in use. The others are records, one after the other:
//
//	 0  head uint64: sum, and a byte each for the number of slots, class, flags
//	    and length of the tenant's name; from the highest
//	 8  unix second uint32, lengths of the numbers uint16, of the route uint8, 0
//	16  key 16 bytes
//	32  the numbers, each as short as it can be; tenant; route
//
// What does not fit goes on in the next slots after a head of 0. So a slot
// that has a head begins a record, and one that was reserved and never
// published, because the process ended there, can be passed over. A record of
// class 255 fills the end of a segment. The sum is over all of the record,
// the segment's sequence and the slot: what a power cut left of another use of
// the segment is no record. Numbers are as the machine stores them.
//
// The file is of mode 0600 and locked (flock) while it is open. It begins with
// few segments and grows up to Options.Segments, never smaller again. What it
// grows by is written as zeros first: a full disk is an error there, and never
// a fault at a store. Segments are zeroed, and so their pages made ready for
// stores, before they are free, and the pages ahead of the writers are made so
// again after each sync: a request that appends meets no page fault.
//
// # Life of a segment
//
// Free; in use by one shard, which has one at a time; full; drained, when each
// of its records was given to a reader; released, when a database has these;
// zeroed and free again. A Position is how far all of them were drained.
// Whoever stores it in one transaction with what he made of the records, and
// opens the file with it, gets each record once. A database that was put back
// to an older state has an older position, and gets what came after it as far
// as it is still there.
package journal
