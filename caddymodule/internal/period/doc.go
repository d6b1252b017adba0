// Package period cuts time into the periods of credits and quotas: hours,
// days, weeks from Monday, and months from a day of the month, all by the wall
// clock of a time zone.
//
// # Days
//
// A day starts at the first instant that the clock shows 00:00 of its date. If
// the clock never does, because it is put forward over midnight, the day
// starts at the change. So days last 23 or 25 hours when clocks change, and a
// date that a zone left out (Samoa, 30 December 2011) has no day at all.
// Weeks and months start and end with days.
//
// # Months
//
// A month with anchor 31 starts on the 31st, and on the last day where a month
// is shorter: 31 January, 28 or 29 February, 31 March. Anchors 29 and 30 go
// the same way.
//
// # Hours
//
// An hour starts when the clock shows a full hour, or when the offset of the
// zone changes: the hour that comes twice in autumn is two periods, and a
// change by half an hour (Lord Howe) makes one of half an hour.
//
// The periods of one Period tile time: each ends where the next starts.
package period
