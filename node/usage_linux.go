// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

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
