// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog

import "os"

// Disk is what a test may put in place of the disk of a spool.
type Disk interface {
	WriteAt(f *os.File, p []byte, off int64) (int, error)
	Sync(f *os.File) error
}

type testDisk struct{ Disk }

func (d testDisk) writeAt(f *os.File, p []byte, off int64) (int, error) { return d.WriteAt(f, p, off) }
func (d testDisk) fsync(f *os.File) error                               { return d.Sync(f) }

// SetDisk has the spool use d.
func SetDisk(o *Options, d Disk) { o.spoolDisk = testDisk{d} }
