// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// maxQuickHead is the size of the longest request that is answered quickly. An
// agent's has about 150 bytes.
const maxQuickHead = 1 << 10

// maxQuickIdle is how many connections stay open between their look-ups. Each agent
// of a site that comes back keeps one for 90 s: all of them would take the files
// that the streams need. Those beyond are closed after their answer.
const maxQuickIdle = 1000

// begunBytes make another request on a connection; net/http, too, ends one on which
// fewer came after an answer without a word.
const begunBytes = 4

// deadlineStep is how often the deadlines of a busy connection are set again.
const deadlineStep = time.Second

// quick is a listener in front of net/http's server, which costs several times
// what a look-up costs. It reads each connection itself as long as each read gives
// one whole, plain look-up, which it has the very same handler answer, with the
// bytes that net/http would send. At the first other thing (half a request, two at
// once, another method or path, a header that it does not know) net/http gets the
// connection with all that was read since the last answer, and keeps it.
type quick struct {
	net.Listener
	api     *API
	handler http.Handler
	paths   map[string]bool
	answers sync.Pool // of *quickAnswer
	handed  chan handed
	closed  chan struct{}
	once    sync.Once
	open    atomic.Int64 // connections that are not net/http's
}

// handed is what Accept returns.
type handed struct {
	conn net.Conn
	err  error
}

func (a *API) newQuick(ln net.Listener, kind Listener) *quick {
	q := &quick{
		Listener: ln, api: a, handler: a.Handler(kind), paths: make(map[string]bool),
		answers: sync.Pool{New: func() any { return &quickAnswer{header: make(http.Header)} }},
		handed:  make(chan handed), closed: make(chan struct{}),
	}
	for _, r := range a.routes {
		if r.Method == http.MethodGet && r.Listeners&kind != 0 && r.Stateless && styleOf(r.Path) == styleSD {
			q.paths[r.Path] = true
		}
	}
	return q
}

// Accept gives net/http the connections that are for it.
func (q *quick) Accept() (net.Conn, error) {
	select {
	case h := <-q.handed:
		return h.conn, h.err
	case <-q.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept and run, but no connection.
func (q *quick) Close() error {
	q.once.Do(func() { close(q.closed) })
	return q.Listener.Close()
}

// hand gives a connection or an error to Accept; false: nobody accepts any more.
func (q *quick) hand(conn net.Conn, err error) bool {
	select {
	case q.handed <- handed{conn, err}:
		return true
	case <-q.closed:
		return false
	}
}

// run accepts connections until Close, then waits for its own ones. They end with
// ctx: idle ones at once, the others after their answer, in drainTimeout at most.
func (q *quick) run(ctx context.Context) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		conn, err := q.Listener.Accept()
		if err != nil { // net/http decides what it means, and how long to wait
			if !q.hand(nil, err) {
				return nil
			}
			continue
		}
		conns.Go(func() { q.own(ctx, conn) })
	}
}

// own answers on a connection, then closes it or hands it over.
func (q *quick) own(ctx context.Context, conn net.Conn) {
	closing := true
	q.open.Add(1)
	defer q.open.Add(-1)
	defer func() {
		if v := recover(); v != nil && v != http.ErrAbortHandler { //nolint:errorlint // the value itself is the sign
			q.api.log.Error("panic on a connection", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
		}
		if closing {
			_ = conn.Close()
		}
	}()
	stop := context.AfterFunc(ctx, func() {
		now := time.Now()
		_ = conn.SetReadDeadline(now)
		_ = conn.SetWriteDeadline(now.Add(drainTimeout))
	})
	rest := q.serve(ctx, conn)
	if !stop() || len(rest) == 0 {
		return
	}
	// net/http sets deadlines of its own before it reads.
	closing = !q.hand(&begunConn{Conn: conn, begun: rest}, nil)
}

// serve answers look-ups until something else comes, which it returns; nothing,
// if the connection is of no more use. A wait for the first byte is bounded as
// net/http bounds it, but for deadlineStep.
func (q *quick) serve(ctx context.Context, conn net.Conn) (rest []byte) {
	buf := make([]byte, maxQuickHead)
	var known []byte // the last request, which a client tends to repeat
	var r *http.Request
	now, write := time.Now(), 2*q.api.opts.RequestTimeout
	var renew time.Time
	for wait := readHeaderTimeout; ; wait = idleTimeout {
		if !now.Before(renew) {
			if conn.SetReadDeadline(now.Add(wait)) != nil || conn.SetWriteDeadline(now.Add(wait+write)) != nil {
				return nil
			}
			if r != nil { // at least one answer is out
				renew = now.Add(deadlineStep)
			}
		}
		if ctx.Err() != nil { // from here on, its end moves the deadlines
			return nil
		}
		n, err := conn.Read(buf)
		for r != nil && n < begunBytes && err == nil {
			var more int
			more, err = conn.Read(buf[n:])
			n += more
		}
		if err != nil && (n == 0 || r != nil && n < begunBytes) {
			return nil
		}
		if head := buf[:n]; !bytes.Equal(head, known) {
			if r = q.lookup(head); r == nil {
				return head
			}
			r.RemoteAddr = conn.RemoteAddr().String()
			known = append(known[:0], head...)
		}
		var ok bool
		if now, ok = q.answer(ctx, conn, r); !ok {
			return nil
		}
		runtime.Gosched() // others first: the next request may be there by then, and need not be waited for
	}
}

// lookup is the request that the bytes are, if they are one look-up and nothing
// that net/http could see in another way; otherwise nil. The grammar is narrow on
// purpose; it judges only, http.ReadRequest reads.
func (q *quick) lookup(head []byte) *http.Request {
	rest, get := bytes.CutPrefix(head, []byte("GET "))
	target, rest, whole := bytes.Cut(rest, []byte(" HTTP/1.1\r\n"))
	path, _, _ := bytes.Cut(target, []byte("?"))
	if !get || !whole || !q.paths[string(path)] || !visible(target, '!') {
		return nil
	}
	for {
		var line []byte
		if line, rest, whole = bytes.Cut(rest, []byte("\r\n")); !whole {
			return nil
		}
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(": "))
		switch string(name) {
		case "Host", "User-Agent", "Accept", "Accept-Encoding", "Accept-Language":
		case "Connection":
			if string(value) != "keep-alive" {
				return nil
			}
		default:
			return nil
		}
		if !visible(value, ' ') {
			return nil
		}
	}
	if len(rest) > 0 {
		return nil
	}
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
	if err != nil || !plainHost(r.Host) { // two hosts are an error
		return nil
	}
	return r
}

// visible tells whether all bytes are from lowest to the end of ASCII's visible ones.
func visible(text []byte, lowest byte) bool {
	for _, c := range text {
		if c < lowest || c > '~' {
			return false
		}
	}
	return true
}

// plainHost tells whether the text is the name or address of a host, and a port.
func plainHost(text string) bool {
	for _, c := range []byte(text) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == ':', c == '-', c == '_', c == '[', c == ']':
		default:
			return false
		}
	}
	return text != ""
}

// answer answers one request, and tells when and whether another may follow.
func (q *quick) answer(ctx context.Context, conn net.Conn, r *http.Request) (at time.Time, more bool) {
	w := q.answers.Get().(*quickAnswer)
	q.handler.ServeHTTP(w, r)
	at = time.Now()
	last := ctx.Err() != nil || q.open.Load() > maxQuickIdle
	_, err := conn.Write(w.bytes(at, last))
	if w.reset() {
		q.answers.Put(w)
	}
	return at, err == nil && !last
}

// begunConn is a connection of which some bytes were read.
type begunConn struct {
	net.Conn
	begun []byte
}

// Read gives those first.
func (c *begunConn) Read(p []byte) (int, error) {
	if len(c.begun) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.begun)
	if c.begun = c.begun[n:]; len(c.begun) == 0 {
		c.begun = nil
	}
	return n, nil
}
