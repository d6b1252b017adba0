// Package usage counts requests: by minute, hour and day, for each tenant, key,
// route and class of answer. It is for people and for billing systems to read;
// what a tenant may still spend is not decided here.
//
// # Counting
//
// Record writes a record of the request into a journal (package journal), which
// costs the same for one key and for a million. It is drained ten times a second,
// and before anything is read, into tables in memory, sharded by key. Where there
// is no journal, and where it is full, Record adds to the tables itself.
//
// A minute holds a bounded number of series; what comes beyond is counted under
// the tenant's OtherKey, and beyond a second bound under OtherTenant: sums are
// exact whatever the number of keys. Sums that do not fit stay at the greatest
// number and never wrap.
//
// # What is stored
//
// All keys begin with a letter. Numbers in keys are big-endian.
//
//	m minute(4) incarnation(4) batch(4) series   values of one flush
//	h hour(4) series                             values of an hour
//	d day(4) series                              values of a day
//	H hour(4), D day(4)                          the hour or day above is whole
//	g incarnation(4) batch(4)                    minute(4) that the batch is of
//	w level                                      unit(4) below which all was deleted
//	c name                                       how far an export got
//	t subject                                    the thresholds that were told
//	i                                            incarnation(4) id(8)
//	p                                            the last whole batch,
//	                                             incarnation(4) batch(4), and
//	                                             how far in the journal that is
//
//	series: tenant 0 key(16) class(1) flags(1) route
//
// # Crashes
//
// Nothing stored is read, added to and written back. A flush writes new records
// under batch numbers that only it has, and the same ones when it is tried
// again. An hour is computed anew from all records of its minutes, a day from
// all of its hours, and each counts only once a mark says that it is whole; the
// mark goes before anything below it changes. It is enough that writes reach the
// storage in order: a crash between any two of them neither loses nor doubles
// what was flushed.
//
// What was not flushed is in the journal. The last change of a flush is p: with
// it all of its batches count, and the journal's records up to there do not. So
// an opening deletes the batches after it, counts the records after it, and
// flushes those, and may be cut short and done again at any point. kill -9 loses
// nothing, a power cut at most the last second. What was counted while the
// journal was full, or where there is none, is lost by either until it is
// flushed.
//
// A storage that was put back to an older state has an older p, and gets what
// came after it as far as the journal still has it; an older journal has
// nothing after p but what was never counted. The journal of another storage is
// moved aside.
package usage
