// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package process runs the real muster binary for tests: it builds it once,
// starts nodes, one on free ports or several as a Cluster, waits until they are
// ready, kills and stops them at will, cuts the links of a Network between them,
// and talks to them as operators and agents would. A test package that uses it
// calls Cleanup in its TestMain.
package process
