// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package quickconn reads and writes TCP connections without telling Go's
// scheduler about it. The scheduler wants to know of a system call because it may
// block; on a socket, which never does, all that comes of it is that the runtime's
// monitor wakes up to watch. In a process that mostly sleeps, as a node with idle
// agents does, waking the monitor costs more than the read.
package quickconn
