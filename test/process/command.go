// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package process

import (
	"os/exec"
	"sync"
	"syscall"
	"testing"
)

// Command is a running muster that is no node, such as `muster sim`.
type Command struct {
	Log    *Output
	cmd    *exec.Cmd
	exited chan struct{}
}

// Start starts the binary with these arguments; it is killed when the test ends.
func Start(t testing.TB, args ...string) *Command {
	t.Helper()
	c := &Command{Log: &Output{}, cmd: exec.Command(Binary(t), args...), exited: make(chan struct{})}
	c.cmd.Stdout, c.cmd.Stderr = c.Log, c.Log
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = c.cmd.Wait()
		close(c.exited)
	})
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		wg.Wait()
		if t.Failed() {
			t.Logf("output of muster %s:\n%.4000s", args[0], c.Log.String())
		}
	})
	return c
}

// Stop asks the process to end, and waits for it.
func (c *Command) Stop() {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	<-c.exited
}
