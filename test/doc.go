// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package test holds the tests that look at Muster as a whole: the rules that
// its source keeps (arch_test.go and hygiene_test.go, over the tree that
// source_test.go reads), and whole programs at work.
package test
