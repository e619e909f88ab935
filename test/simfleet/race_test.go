// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

//go:build race

package simfleet_test

const raceDetector = true
