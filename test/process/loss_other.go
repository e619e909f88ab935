// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package process

import "errors"

func loseOn(string, float64) (mend func(), err error) {
	return nil, errors.New("only Linux can lose packets on purpose")
}
