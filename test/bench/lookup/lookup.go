// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package lookup

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// Load is a number of connections that ask.
type Load struct {
	addr    string
	conns   int
	answers atomic.Int64
}

// New does not connect yet.
func New(addr string, conns int) *Load { return &Load{addr: addr, conns: conns} }

// Stats is what was answered so far.
type Stats struct {
	Answers int64 `json:"answers"`
}

// Stats counts.
func (l *Load) Stats() Stats { return Stats{Answers: l.answers.Load()} }

// Run asks until ctx ends.
func (l *Load) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for range l.conns {
		group.Go(func() error {
			if err := l.ask(ctx); ctx.Err() == nil {
				return err
			}
			return nil
		})
	}
	return group.Wait()
}

// ask uses one connection.
func (l *Load) ask(ctx context.Context) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", l.addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	request := []byte("GET /registry/detail?name=hids_svr_grpc&count=10 HTTP/1.1\r\nHost: " + l.addr + "\r\nUser-Agent: Go-http-client/1.1\r\nAccept-Encoding: gzip\r\n\r\n")
	r := bufio.NewReader(conn)
	for {
		if _, err := conn.Write(request); err != nil {
			return err
		}
		if err := answer(r); err != nil {
			return err
		}
		l.answers.Add(1)
	}
}

// answer reads one of status 200.
func answer(r *bufio.Reader) error {
	length := -1
	for first := true; ; first = false {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		line = bytes.TrimRight(line, "\r\n")
		if first && !bytes.HasPrefix(line, []byte("HTTP/1.1 200")) {
			return fmt.Errorf("answered %q", line)
		}
		if len(line) == 0 {
			break
		}
		if name, value, _ := bytes.Cut(line, []byte(": ")); bytes.EqualFold(name, []byte("Content-Length")) {
			if length, err = strconv.Atoi(string(value)); err != nil {
				return fmt.Errorf("length of the answer: %w", err)
			}
		}
	}
	if length <= 0 {
		return errors.New("an answer without a length")
	}
	_, err := io.CopyN(io.Discard, r, int64(length))
	return err
}
