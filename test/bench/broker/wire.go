// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package broker

import "encoding/binary"

// reader takes Kafka's types off a request; failed says that it was too short.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.failed = true
		return make([]byte, 64)
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) int16() int16 { return int16(binary.BigEndian.Uint16(r.take(2))) } //nolint:gosec // the wire's sign
func (r *reader) int32() int32 { return int32(binary.BigEndian.Uint32(r.take(4))) } //nolint:gosec // the wire's sign

// text may be null, which is empty here.
func (r *reader) text() string {
	n := r.int16()
	if n < 0 {
		return ""
	}
	return string(r.take(int(n)))
}

// writer puts Kafka's types behind each other.
type writer struct{ b []byte }

func (w *writer) int16(v int16) { w.b = binary.BigEndian.AppendUint16(w.b, uint16(v)) } //nolint:gosec // the wire's sign
func (w *writer) int32(v int32) { w.b = binary.BigEndian.AppendUint32(w.b, uint32(v)) } //nolint:gosec // the wire's sign
func (w *writer) int64(v int64) { w.b = binary.BigEndian.AppendUint64(w.b, uint64(v)) } //nolint:gosec // the wire's sign
func (w *writer) array(n int)   { w.int32(int32(n)) }                                   //nolint:gosec // small

func (w *writer) text(s string) {
	w.int16(int16(len(s))) //nolint:gosec // names
	w.b = append(w.b, s...)
}
