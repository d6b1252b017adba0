package main

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// processClock returns the clock that counts the CPU time of all threads of a
// process, as clock_getcpuclockid(3) does.
func processClock(pid int) int32 {
	const schedulerTime = 2
	return int32(^pid)<<3 | schedulerTime
}

// cpuTime returns the user and system time that a process has used. It reads
// the scheduler's clock, in nanoseconds, or /proc where there is none.
func cpuTime(pid int) (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(processClock(pid), &ts); err == nil {
		return time.Duration(ts.Nano()), nil
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return parseStat(text)
}

// cpuClock names what cpuTime reads.
func cpuClock() string {
	var ts unix.Timespec
	if unix.ClockGettime(processClock(os.Getpid()), &ts) == nil {
		return "clock_gettime (nanoseconds)"
	}
	return "/proc/<pid>/stat (hundredths of a second: use longer rounds)"
}

// resident returns the resident memory of a process in bytes.
func resident(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	return parseRSS(text)
}
