// Package counter keeps counters in a file that is mapped into memory.
//
// # Promises
//
// A counter is changed by one atomic operation on the mapped page, and the
// kernel has it from then on. On linux and other unix systems that means:
//
//   - The end of the process, kill -9 included, loses nothing, and leaves no
//     half of a [Slot.Turn].
//   - The end of the machine (a power cut) loses at most what came after the
//     last sync that ended: Options.Sync and the time that the disk takes.
//   - What was leased ([Slot.Lease]) is never lost: see Recovery.
//   - A failing disk stops no counter. [File.Err] says so until a sync succeeds,
//     which is tried each Options.Sync. Until then the counters are as safe as
//     the machine.
//
// On other systems (Windows) the slots are in memory and written at each sync;
// what holds there for a power cut holds for the end of the process, and
// nothing keeps a second process out.
//
// # Syncs
//
// On ext4 and XFS, which overwrite files in place, a sync goes piece by piece,
// with pauses, and holds up nobody: of each 64 pages those that were touched are
// given to the disk and made writable again at once, and in the end the disk is
// flushed. Elsewhere the whole file is synced, and the touched pages are made
// writable after that. So a request does not wait for the page that it counts
// in, but by a chance of some thousandths.
//
// # File
//
//	   0  magic, version uint32, byte order mark uint32, installation 8 bytes,
//	      size of a slot uint32, zeros; crc
//	  64  state: boot id 16 bytes, stopped in order uint8, zeros, slots in use
//	      uint64, slots that there is room for uint64, name of the last copy
//	      8 bytes, zeros; crc
//	 128  journal: the Turn that is being made
//	4096  slots of 64 bytes: id 16 bytes; period, carried, used, leased,
//	      promised int64; turns uint32; crc of id and number uint32
//
// A crc is CRC-32C, the last four bytes of its 64. Numbers in slots and journal
// are as the machine stores them, others little endian. A slot of zeros is
// free. The file is of mode 0600 and locked (flock) while it is open. It grows
// by doubling, later by 16 MiB, each part with a mapping of its own, so that no
// slot ever moves. What it grows by is written as zeros first: a full disk is
// an error there, and never a fault at a store.
//
// A copy of the file that is made while it is open is a good file: each slot
// is as it was at some moment of the copying.
//
// # Copies in the database
//
// Whoever opens the file folds it into the database beside it now and then:
// before each backup, in order to stop, and every few minutes. [File.Values]
// gives what the slots count, the database takes what has changed, some at a time,
// and then a new random name for all of it, and the file gets that name with
// [File.SetFold]. So a backup of the database has the counts of its moment.
//
// A file and a database that have the same name belong together, and the file
// is the newer. If the names differ, or the file was made anew, the copy is put
// in with [File.Adopt]: of each slot the later period counts, and in the same
// period the higher use. So neither a lost file, nor a restored database, nor
// an older file put back has more left than there was at the last fold; what
// was used since is lost with the file. A kill between the database's name
// and the file's costs what was given back in that moment, and never grants
// anything; before the database's name, nothing.
//
// # Recovery
//
// A lease is durable before it is spent, so on the disk no used value that
// matters is above max(used, leased). The header has the boot id of the machine
// and whether the file was closed in order.
//
//   - Closed in order, or opened again under the same boot id: used is exact,
//     and the unspent part of every lease is returned.
//   - Otherwise (a power cut; a copy on another machine; a torn state): used is
//     max(used, leased). At most one lease is counted too much, and nothing too
//     little.
//
// Systems other than linux have no boot id; there, only a file that was closed
// in order is exact.
//
// # Damage
//
// A header that is not right in every byte is an error at Open, but for state
// and journal, which change: with a bad state the second rule of Recovery
// holds, a bad journal is ignored. A file shorter than its header says is an
// error. A slot with a bad crc, an id that is there twice, and slots that were
// there when the file was closed and are not now are in [Recovery]; ids that
// are not known are refused as long as there are any, for one of them may be
// the owner. Other ids go on. Numbers in a slot have no checksum, as they
// change with every request.
//
// A file that is cut off while it is open, and a page that the disk does not
// give, are a fault of the processor: see [File.Guard].
package counter
