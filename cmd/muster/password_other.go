// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import (
	"errors"
	"os"
)

// isTerminal says no: on this system a password comes from a file, standard
// input or the environment.
func isTerminal(*os.File) bool { return false }

func hideInput(*os.File) (show func(), err error) {
	return nil, errors.New("not on this system: use --password-file")
}
