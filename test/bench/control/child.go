// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
)

// Child is a process that answers as Serve does.
type Child struct {
	*Process
	in  io.WriteCloser
	out *bufio.Reader
}

// StartChild starts one and waits until it is ready, with what it says then.
func StartChild(dir, name string, cmd *exec.Cmd, ready any) (*Child, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("pipe to %s: %w", name, err)
	}
	// The reader must outlive the process: its last words are read after it.
	r, w := io.Pipe()
	cmd.Stdout = w
	p, err := Start(dir, name, cmd)
	if err != nil {
		return nil, err
	}
	c := &Child{Process: p, in: in, out: bufio.NewReader(r)}
	p.wait.Go(func() {
		<-p.exited
		_ = w.CloseWithError(io.EOF)
	})
	if err := c.read("start", ready); err != nil {
		_ = c.End()
		return nil, err
	}
	return c, nil
}

// Ask sends a command and decodes the answer into value, which may be nil.
func (c *Child) Ask(command string, value any) error {
	if _, err := fmt.Fprintln(c.in, command); err != nil {
		return c.gone(fmt.Errorf("tell %s to %s: %w", c.Name, command, err))
	}
	return c.read(command, value)
}

func (c *Child) read(command string, value any) error {
	line, err := c.out.ReadBytes('\n')
	if err != nil {
		return c.gone(fmt.Errorf("hear %s about %s: %w (its log is %s: %s)", c.Name, command, err, c.Log, c.lastLines()))
	}
	var a struct {
		Error string
		Value json.RawMessage
	}
	if err := json.Unmarshal(line, &a); err != nil {
		return fmt.Errorf("%s answered %q: %w", c.Name, line, err)
	}
	if a.Error != "" {
		return fmt.Errorf("%s: %s: %s", c.Name, command, a.Error)
	}
	if value == nil || len(a.Value) == 0 {
		return nil
	}
	return json.Unmarshal(a.Value, value)
}
