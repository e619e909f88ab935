// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package table

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Machine is where figures come from, and what else ran there.
type Machine struct {
	began time.Time
	busy  float64 // CPU seconds of all processes since the start of the machine
	own   float64
}

// NewMachine begins to look at what else runs.
func NewMachine() *Machine {
	return &Machine{began: time.Now(), busy: busySeconds(), own: ownSeconds()}
}

// String describes the machine, the program and the time since NewMachine.
func (m *Machine) String(program string) string {
	took := time.Since(m.began)
	others := (busySeconds() - m.busy) - (ownSeconds() - m.own)
	version := "an unknown version"
	if out, err := exec.Command(program, "version").Output(); err == nil { //nolint:gosec // the program under test
		version = string(bytes.TrimSpace(bytes.SplitN(out, []byte("\n"), 2)[0]))
	}
	return fmt.Sprintf("%s, %s, %s: %d cores (%s), Linux %s, %s; other processes took %.2f cores on average over %s",
		version, m.began.UTC().Format("2006-01-02 15:04 UTC"), runtime.GOARCH, runtime.NumCPU(), cpuModel(), kernel(), runtime.Version(),
		max(others, 0)/took.Seconds(), took.Round(time.Second))
}

// busySeconds is what all CPUs did but for idling and waiting.
func busySeconds() float64 {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	var busy float64
	for i, f := range strings.Fields(line) {
		if i == 1 || i == 2 || i == 3 || i == 6 || i == 7 { // user, nice, system, irq, softirq
			v, _ := strconv.ParseFloat(f, 64)
			busy += v
		}
	}
	return busy / 100
}

// ownSeconds is what this process took and those that it has started and waited for.
func ownSeconds() float64 {
	var sum float64
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if syscall.Getrusage(who, &u) == nil {
			sum += float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
		}
	}
	return sum
}

func cpuModel() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown model"
}

func kernel() string {
	b, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return strings.TrimSpace(string(b))
}
