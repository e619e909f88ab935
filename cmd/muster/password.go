// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// passwordFlags say where a password comes from. It is never an argument:
// every user of the machine can read those.
type passwordFlags struct {
	PasswordFile string `help:"File with the password; - reads standard input. Else MUSTER_PASSWORD, else you are asked." placeholder:"FILE"`
}

// password finds the password. twice asks for it again, if it is asked for.
func (f *passwordFlags) password(a *app, prompt string, twice bool) (string, error) {
	if f.PasswordFile != "" {
		return a.passwordFrom(f.PasswordFile)
	}
	if p := os.Getenv("MUSTER_PASSWORD"); p != "" {
		return p, nil
	}
	terminal, ok := a.in.(*os.File)
	if !ok || !isTerminal(terminal) {
		return "", usage("no password: give --password-file FILE (- reads standard input), or set MUSTER_PASSWORD")
	}
	p, err := a.ask(terminal, prompt)
	if err != nil || !twice {
		return p, err
	}
	again, err := a.ask(terminal, "The same again")
	if err != nil {
		return "", err
	}
	if p != again {
		return "", errors.New("the two passwords differ: nothing was changed")
	}
	return p, nil
}

// passwordFrom reads a password from a file; a newline at its end is no part
// of it.
func (a *app) passwordFrom(file string) (string, error) {
	b, err := a.readInput(file)
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	p := strings.TrimRight(string(b), "\r\n")
	if p == "" {
		return "", fmt.Errorf("read the password: %s is empty", file)
	}
	return p, nil
}

// ask reads a line from the terminal without showing it.
func (a *app) ask(terminal *os.File, prompt string) (string, error) {
	_, _ = fmt.Fprintf(a.err, "%s: ", prompt)
	show, err := hideInput(terminal)
	if err != nil {
		return "", fmt.Errorf("hide what is typed: %w", err)
	}
	line, err := bufio.NewReader(terminal).ReadString('\n')
	show()
	_, _ = fmt.Fprintln(a.err)
	if err != nil && (!errors.Is(err, io.EOF) || line == "") {
		return "", fmt.Errorf("read the password: %w", err)
	}
	if line = strings.TrimRight(line, "\r\n"); line == "" {
		return "", errors.New("no password was typed")
	}
	return line, nil
}
