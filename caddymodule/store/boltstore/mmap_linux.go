package boltstore

import (
	"math/bits"
	"syscall"
)

// mmapFlags has the file read in one go. bbolt asks for no read-ahead, and
// opening reads all pages.
const mmapFlags = syscall.MAP_POPULATE

// mmapSize is the address space that is set aside for the file. bbolt can map a
// file that has outgrown it only while nobody reads, and so a long View would
// hold up an Update, and an Update within the View's reach would never end.
// Address space is free where there is enough of it.
const mmapSize = 1 << (20 + 10*(bits.UintSize/64)) // 1 GiB, 1 MiB on 32 bits
