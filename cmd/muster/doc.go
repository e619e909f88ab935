// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package main is the muster command: it runs a node, a fleet for trials, or
// one of the operator's commands, which are clients of a node's API, /v1.
package main
