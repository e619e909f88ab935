// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bytes"
	"net/http"
	"strconv"
	"time"
)

// maxQuickKept is the capacity up to which the buffers of an answer are used again.
const maxQuickKept = 32 << 10

// quickAnswer holds an answer until it is whole.
type quickAnswer struct {
	header http.Header
	status int // 0 until something is written
	body   []byte
	out    bytes.Buffer

	date   []byte // the second, as HTTP writes it
	second int64
}

// Header is what the handler sets.
func (w *quickAnswer) Header() http.Header { return w.header }

// WriteHeader notes the first status.
func (w *quickAnswer) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

// Write appends to the body.
func (w *quickAnswer) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	w.body = append(w.body, b...)
	return len(b), nil
}

// bytes are the answer as net/http sends it on a connection that stays open, or
// on one that does not. They are valid until reset.
func (w *quickAnswer) bytes(now time.Time, last bool) []byte {
	w.WriteHeader(http.StatusOK)
	out, scratch := &w.out, make([]byte, 0, 20)
	out.WriteString("HTTP/1.1 ")
	out.Write(strconv.AppendInt(scratch, int64(w.status), 10))
	out.WriteByte(' ')
	out.WriteString(http.StatusText(w.status))
	out.WriteString("\r\n")
	_ = w.header.Write(out) // to memory
	if second := now.Unix(); second != w.second {
		w.second, w.date = second, now.UTC().AppendFormat(w.date[:0], http.TimeFormat)
	}
	out.WriteString("Date: ")
	out.Write(w.date)
	if w.header["Content-Length"] == nil {
		out.WriteString("\r\nContent-Length: ")
		out.Write(strconv.AppendInt(scratch, int64(len(w.body)), 10))
	}
	if last {
		out.WriteString("\r\nConnection: close")
	}
	out.WriteString("\r\n\r\n")
	out.Write(w.body)
	return out.Bytes()
}

// reset makes room for another answer; false: it has grown too large to be kept.
func (w *quickAnswer) reset() bool {
	clear(w.header)
	w.status, w.body = 0, w.body[:0]
	w.out.Reset()
	return cap(w.body) <= maxQuickKept && w.out.Cap() <= maxQuickKept
}
