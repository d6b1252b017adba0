//go:build !linux

package main

import (
	"errors"
	"time"
)

var errPlatform = errors.New("the CPU time of other processes is only read on Linux")

func cpuTime(int) (time.Duration, error) { return 0, errPlatform }

func cpuClock() string { return "none" }

func resident(int) (int64, error) { return 0, errPlatform }
