// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package process runs the real muster binary for tests: it builds it once,
// starts nodes on free ports, waits until they are ready, kills them at will,
// and talks to them as an operator would. A test package that uses it calls
// Cleanup in its TestMain.
package process
