// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
)

// soakCmd holds agents for a long time.
type soakCmd struct{}

// Run is called by kong.
func (c *soakCmd) Run(context.Context) error { return errors.New("not yet") }
