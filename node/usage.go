// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// meter turns a counter into a rate. It is safe for concurrent use.
type meter struct {
	mu    sync.Mutex
	at    time.Time
	count uint64
	rate  float64
}

// sample notes the counter and returns the rate since the last sample, in
// units a second. Samples closer than half a second return the last rate.
func (m *meter) sample(now time.Time, count uint64) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	passed := now.Sub(m.at)
	switch {
	case m.at.IsZero():
		m.at, m.count = now, count
	case passed >= 500*time.Millisecond:
		m.rate = float64(count-m.count) / passed.Seconds()
		m.at, m.count = now, count
	}
	return m.rate
}

// value returns the last rate.
func (m *meter) value() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rate
}

// usage reads what the process takes of the machine, per mille.
type usage struct {
	cpu meter // of CPU microseconds
}

// read returns CPU of all cores and resident memory of all memory. What the
// system does not tell is 0.
func (u *usage) read(now time.Time) (cpu, memory uint16) {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err == nil {
		micros := uint64(r.Utime.Sec+r.Stime.Sec)*1e6 + uint64(r.Utime.Usec+r.Stime.Usec)
		perCore := u.cpu.sample(now, micros) / 1e6 / float64(runtime.NumCPU())
		cpu = permille(perCore)
	}
	var s syscall.Sysinfo_t
	if err := syscall.Sysinfo(&s); err == nil && s.Totalram > 0 {
		total := float64(s.Totalram) * float64(max(s.Unit, 1))
		memory = permille(float64(residentPages()*int64(os.Getpagesize())) / total)
	}
	return cpu, memory
}

func permille(share float64) uint16 { return uint16(min(max(share, 0), 1) * 1000) }

// residentPages is the second field of /proc/self/statm, 0 where there is none.
func residentPages() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(b)
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(string(fields[1]), 10, 64)
	if err != nil {
		return 0
	}
	return pages
}
