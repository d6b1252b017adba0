package main

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// userHZ is the unit of the times in /proc/<pid>/stat. The kernel shows every
// program hundredths of a second, whatever its own tick is.
const userHZ = 100

// parseStat returns user and system time of all threads from the text of
// /proc/<pid>/stat. It is a whole number of hundredths of a second.
func parseStat(text []byte) (time.Duration, error) {
	// The program's name stands in parentheses and may itself hold spaces and
	// parentheses: the fields are counted from the last one.
	i := bytes.LastIndexByte(text, ')')
	if i < 0 {
		return 0, errors.New("stat: no program name")
	}
	fields := strings.Fields(string(text[i+1:]))
	const utime, stime = 11, 12 // fields 14 and 15 of the line
	if len(fields) <= stime {
		return 0, fmt.Errorf("stat: %d fields after the name, want more than %d", len(fields), stime)
	}
	var ticks uint64
	for _, f := range fields[utime : stime+1] {
		n, err := strconv.ParseUint(f, 10, 63)
		if err != nil {
			return 0, fmt.Errorf("stat: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / userHZ, nil
}

// parseRSS returns the resident memory in bytes from the text of
// /proc/<pid>/status.
func parseRSS(text []byte) (int64, error) {
	for line := range strings.Lines(string(text)) {
		value, ok := strings.CutPrefix(line, "VmRSS:")
		if !ok {
			continue
		}
		value, ok = strings.CutSuffix(strings.TrimSpace(value), " kB")
		if !ok {
			return 0, fmt.Errorf("status: VmRSS %q is not in kB", value)
		}
		kb, err := strconv.ParseInt(value, 10, 50)
		if err != nil {
			return 0, fmt.Errorf("status: %w", err)
		}
		return kb << 10, nil
	}
	return 0, errors.New("status: no VmRSS: the process has ended")
}
