// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"
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
	if total := machineMemory(); total > 0 {
		memory = permille(float64(residentPages()*int64(os.Getpagesize())) / float64(total))
	}
	return cpu, memory
}

// machineMemory returns bytes, 0 if the system does not tell.
func machineMemory() uint64 {
	var s syscall.Sysinfo_t
	if err := syscall.Sysinfo(&s); err != nil {
		return 0
	}
	return uint64(s.Totalram) * uint64(max(s.Unit, 1)) //nolint:unconvert // narrower on 32 bits
}

// memoryLimit is what the machine has, or what the control group (version 2)
// of this process allows, if that is less.
func memoryLimit() uint64 {
	limit := machineMemory()
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return limit
	}
	for line := range strings.Lines(string(own)) {
		group, is := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !is {
			continue
		}
		// A group is bound by those above it, too.
		for dir := path.Join("/sys/fs/cgroup", group); strings.HasPrefix(dir, "/sys/fs/cgroup"); dir = path.Dir(dir) {
			b, err := os.ReadFile(path.Join(dir, "memory.max"))
			if err != nil {
				continue
			}
			if most, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64); err == nil { // else "max"
				limit = min(limit, most)
			}
		}
	}
	return limit
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
