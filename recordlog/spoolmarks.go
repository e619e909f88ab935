// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync"
)

// The marks of a spool are one block of 64 bytes that is written over in place,
// numbers big-endian. These are the offsets in it.
const (
	markMagic   = 0  // 4 bytes, marksMagic
	markVersion = 4  // uint32, 1 or 2
	markBoot    = 8  // 16 bytes, which start of the machine this is
	markDone    = 24 // uint64, entries up to here are settled
	markSent    = 32 // uint64, entries up to here may have been sent
	markCeiling = 40 // uint64, sent is never above this; synced
	markID      = 48 // 8 bytes, the spool's ID; 0 in version 1
	markCRC     = 60 // uint32, CRC32C of what is before it
	markBytes   = 64

	marksMagic = "MSPM"
	marksName  = "marks"
	// ceilingStep is how far ahead the ceiling is set: one sync for so many entries.
	ceilingStep = 32
)

// marks tell after a crash what of a spool is settled and what may be in Kafka
// already. They are written for each batch but synced only every ceilingStep
// entries: the page cache outlives a process that is killed, and after a loss of
// power, which another boot ID shows, the synced ceiling stands for the mark.
type marks struct {
	path  string
	store *spools

	mu   sync.Mutex // held while the block is written, so that they are written in order
	file *os.File   // nil until first needed
	now  markValues
}

type markValues struct {
	done, sent, ceiling uint64
	id                  spoolID
}

func newMarks(dir string, id spoolID, store *spools) *marks {
	return &marks{path: filepath.Join(dir, marksName), store: store, now: markValues{id: id}}
}

// begin puts the block there, over any that an earlier spool may have left.
func (m *marks) begin() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.file == nil {
		m.save(true)
	}
}

// noteSent says that entries up to number may be in Kafka from now on.
func (m *marks) noteSent(number uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if number <= m.now.sent {
		return
	}
	m.now.sent = number
	above := number > m.now.ceiling
	if above {
		m.now.ceiling = number + ceilingStep - 1
	}
	m.save(above)
}

// noteDone says that entries up to number are settled.
func (m *marks) noteDone(number uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if number > m.now.done {
		m.now.done = number
		m.save(false)
	}
}

// save writes the block; it needs the lock. A failure is told, and the records
// are sent all the same: they may be sent again after a crash, uncounted.
func (m *marks) save(durably bool) {
	defer m.store.begin(m.path)()
	var err error
	if m.file == nil {
		m.file, err = os.OpenFile(m.path, os.O_CREATE|os.O_RDWR, 0o600)
	}
	if err == nil {
		_, err = m.file.WriteAt(m.now.encode(m.store.bootID), 0)
	}
	if err == nil && durably {
		err = m.store.disk.fsync(m.file)
	}
	if err != nil {
		m.store.complain("writing the marks of the spool", err)
	}
}

func (m *marks) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.file != nil {
		_ = m.file.Close()
		m.file = nil
	}
}

func (v markValues) encode(boot [16]byte) []byte {
	b := make([]byte, markBytes)
	be := binary.BigEndian
	copy(b[markMagic:], marksMagic)
	be.PutUint32(b[markVersion:], spoolFormat)
	copy(b[markBoot:], boot[:])
	be.PutUint64(b[markDone:], v.done)
	be.PutUint64(b[markSent:], v.sent)
	be.PutUint64(b[markCeiling:], v.ceiling)
	copy(b[markID:], v.id[:])
	be.PutUint32(b[markCRC:], crc32.Checksum(b[:markCRC], castagnoli))
	return b
}

// parseMarks reads a block. After another start of the machine the last marks
// may be lost; then the ceiling is what may have been sent.
func parseMarks(b []byte, boot [16]byte) (v markValues, err error) {
	be := binary.BigEndian
	if len(b) != markBytes || string(b[:4]) != marksMagic || be.Uint32(b[markVersion:])-1 >= spoolFormat ||
		crc32.Checksum(b[:markCRC], castagnoli) != be.Uint32(b[markCRC:]) {
		return v, fmt.Errorf("marks: %w", errDamaged)
	}
	v = markValues{
		done: be.Uint64(b[markDone:]), sent: be.Uint64(b[markSent:]), ceiling: be.Uint64(b[markCeiling:]),
		id: spoolID(b[markID:]),
	}
	if v.done > v.sent || v.sent > v.ceiling {
		return v, fmt.Errorf("marks %+v: %w", v, errDamaged)
	}
	var unknown [16]byte
	if [16]byte(b[markBoot:]) != boot || boot == unknown {
		v.sent = v.ceiling
	}
	return v, nil
}

// load reads what an earlier process noted. Without a file nothing was sent; if
// it cannot be read everything may have been.
func (m *marks) load() error {
	b, err := os.ReadFile(m.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		var v markValues
		if v, err = parseMarks(b, m.store.bootID); err == nil {
			if v.id == (spoolID{}) { // of version 1
				v.id = m.now.id
			}
			m.now = v
			return nil
		}
	}
	m.now.sent, m.now.ceiling = 1<<63-1, 1<<63-1
	return err
}
