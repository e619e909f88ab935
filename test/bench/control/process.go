// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// ticksPerSecond is the kernel's USER_HZ, which is 100 wherever Go runs on Linux.
const ticksPerSecond = 100

// endWithin is how long a process may take to end before it is killed.
const endWithin = 60 * time.Second

// Process is one that this process has started. Its log is in a file.
type Process struct {
	Name string
	Log  string

	cmd    *exec.Cmd
	exited chan struct{}
	wait   sync.WaitGroup
	err    error // read after exited
}

// Start runs a program; what it writes goes to dir/name.log.
func Start(dir, name string, cmd *exec.Cmd) (*Process, error) {
	p := &Process{Name: name, Log: filepath.Join(dir, name+".log"), cmd: cmd, exited: make(chan struct{})}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	defer log.Close()
	if cmd.Stdout == nil {
		cmd.Stdout = log
	}
	cmd.Stderr = log
	// An interrupt of the terminal is for the parent, which ends the others.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p.wait.Go(func() {
		p.err = cmd.Wait()
		close(p.exited)
	})
	return p, nil
}

// Exited is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Signal sends one.
func (p *Process) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// End asks the process to end, waits for it, and kills it if that takes too long.
func (p *Process) End() error {
	select {
	case <-p.exited:
		return nil
	default:
	}
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end %s: %w", p.Name, err)
	}
	timer := time.NewTimer(endWithin)
	defer timer.Stop()
	select {
	case <-p.exited:
		return nil
	case <-timer.C:
		_ = p.cmd.Process.Kill()
		<-p.exited
		return fmt.Errorf("%s did not end within %s and was killed", p.Name, endWithin)
	}
}

// CPU is the user and system time that the process has used, in seconds.
func (p *Process) CPU() (float64, error) {
	b, err := os.ReadFile(p.proc("stat"))
	if err != nil {
		return 0, p.gone(err)
	}
	_, after, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(after)
	if len(fields) < 13 {
		return 0, fmt.Errorf("%s: unknown format", p.proc("stat"))
	}
	var ticks float64
	for _, f := range fields[11:13] { // utime and stime
		n, err := strconv.ParseFloat(f, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", p.proc("stat"), err)
		}
		ticks += n
	}
	return ticks / ticksPerSecond, nil
}

// RssAnon is the anonymous memory that is resident, in bytes.
func (p *Process) RssAnon() (int64, error) {
	b, err := os.ReadFile(p.proc("status"))
	if err != nil {
		return 0, p.gone(err)
	}
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("RssAnon:")); ok {
			kb, err := strconv.ParseInt(strings.Fields(string(rest))[0], 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("%s has no RssAnon", p.proc("status"))
}

func (p *Process) proc(file string) string {
	return fmt.Sprintf("/proc/%d/%s", p.cmd.Process.Pid, file)
}

// gone explains an error by the end of the process.
func (p *Process) gone(err error) error {
	select {
	case <-p.exited:
		return fmt.Errorf("%s has ended (%w); its log is %s: %s", p.Name, p.err, p.Log, p.lastLines())
	default:
		return err
	}
}

// lastLines are the end of the log.
func (p *Process) lastLines() string {
	b, _ := os.ReadFile(p.Log)
	return string(b[max(0, len(b)-600):])
}
