// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"os"
	"testing"

	"muster/test/process"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := process.Cleanup(); err != nil {
		fmt.Fprintln(os.Stderr, "remove the binary of the tests:", err)
	}
	os.Exit(code)
}
