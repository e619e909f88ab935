// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// Handler answers a line of the parent's: a command and its argument.
type Handler func(command, argument string) (any, error)

// answer is one line to the parent.
type answer struct {
	Error string `json:"error,omitempty"`
	Value any    `json:"value,omitempty"`
}

// Serve tells the parent that this process is ready, with what it should know,
// and answers its commands until in ends.
func Serve(in io.Reader, out io.Writer, ready any, handle Handler) error {
	enc := json.NewEncoder(out)
	if err := enc.Encode(answer{Value: ready}); err != nil {
		return fmt.Errorf("tell the parent: %w", err)
	}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		command, argument, _ := strings.Cut(lines.Text(), " ")
		var a answer
		value, err := handle(command, argument)
		if err != nil {
			a.Error = err.Error()
		} else {
			a.Value = value
		}
		if err := enc.Encode(a); err != nil {
			return fmt.Errorf("answer the parent: %w", err)
		}
	}
	return lines.Err()
}
