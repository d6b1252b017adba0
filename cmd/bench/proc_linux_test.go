package main

import (
	"os"
	"syscall"
	"testing"
	"time"
)

func usage(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// burn uses CPU time until the process as a whole has used d.
func burn(t *testing.T, d time.Duration) {
	t.Helper()
	for end := usage(t) + d; usage(t) < end; {
	}
}

func TestCPUTimeIsThatOfTheWholeProcess(t *testing.T) {
	burn(t, 50*time.Millisecond)
	// getrusage may lag behind by the time since the kernel's last look.
	const slack = 20 * time.Millisecond
	low := usage(t)
	got, err := cpuTime(os.Getpid())
	high := usage(t)
	if err != nil || got < low-slack || got > high+slack {
		t.Errorf("got %v, %v, want %v to %v", got, err, low, high)
	}
}

func TestParseStatOfThisProcess(t *testing.T) {
	burn(t, 50*time.Millisecond)
	const slack = 40 * time.Millisecond // two times, each cut to hundredths
	low := usage(t)
	text, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	high := usage(t)
	got, err := parseStat(text)
	if err != nil || got < low-slack || got > high+slack {
		t.Errorf("got %v, %v, want %v to %v", got, err, low, high)
	}
}

func TestResidentGrows(t *testing.T) {
	before, err := resident(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	const size = 64 << 20
	block, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Munmap(block)
	for i := 0; i < size; i += 4096 {
		block[i] = 1
	}
	after, err := resident(os.Getpid())
	if err != nil || after-before < size/2 {
		t.Errorf("resident memory went from %d to %d, %v, after %d were touched", before, after, err, size)
	}
}

func TestNoSuchProcess(t *testing.T) {
	const pid = 1<<22 + 1 // above the highest that Linux gives
	if _, err := cpuTime(pid); err == nil {
		t.Error("cpuTime: want an error")
	}
	if _, err := resident(pid); err == nil {
		t.Error("resident: want an error")
	}
}
