// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package apiclient

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"time"
)

// MaxEventBytes bounds one event: a list of the most nodes that there can be is
// about a megabyte.
const MaxEventBytes = 8 << 20

// Event is one of a stream.
type Event struct {
	ID   string
	Name string // message, if the node gives none
	Data []byte
}

// Events asks for a stream of events and yields them as they come, until the caller
// has enough or ctx ends. Every other end is an error, which is yielded last: also
// that the node said nothing for Options.Timeout, which it does each 15 s.
func (c *Client) Events(ctx context.Context, path string) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		fail := func(err error) {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			yield(Event{}, unreachable(c.base, err))
		}
		req, err := c.request(ctx, http.MethodGet, path, nil)
		if err != nil {
			yield(Event{}, err)
			return
		}
		req.Header.Set("Accept", "text/event-stream, application/problem+json")
		quiet := time.AfterFunc(c.opts.Timeout, func() { cancel(fmt.Errorf("it said nothing for %s", c.opts.Timeout)) })
		defer quiet.Stop()
		resp, err := c.endless.Do(req)
		if err != nil {
			fail(err)
			return
		}
		defer func() { _ = resp.Body.Close() }()
		if resp.StatusCode != http.StatusOK {
			body, _ := io.ReadAll(io.LimitReader(resp.Body, maxBodyBytes))
			yield(Event{}, problem(c.base, resp, body))
			return
		}
		for event, err := range ReadEvents(awake{resp.Body, func() { quiet.Reset(c.opts.Timeout) }}) {
			if err != nil {
				fail(err)
				return
			}
			if !yield(event, nil) {
				return
			}
		}
		fail(errors.New("the stream broke off"))
	}
}

// awake is a reader that tells of each read.
type awake struct {
	io.Reader
	tell func()
}

func (a awake) Read(p []byte) (int, error) {
	n, err := a.Reader.Read(p)
	a.tell()
	return n, err
}

// ReadEvents reads the format of the HTML standard, "Server-sent events", as far as
// Muster's nodes write it: lines end with LF or CRLF. An event that is cut off at
// the end is dropped; after an error nothing more is yielded.
func ReadEvents(r io.Reader) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		in := bufio.NewReader(r)
		var event Event
		var data []byte
		some, size := false, 0
		for {
			line, err := readLine(in, MaxEventBytes-size)
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(Event{}, err)
				return
			}
			if size += len(line); len(line) > 0 {
				name, value, _ := bytes.Cut(line, []byte(":"))
				value = bytes.TrimPrefix(value, []byte(" "))
				switch string(name) {
				case "id":
					event.ID = string(value)
				case "event":
					event.Name = string(value)
				case "data":
					data, some = append(append(data, value...), '\n'), true
				}
				continue
			}
			if some {
				event.Data = bytes.TrimSuffix(data, []byte("\n"))
				if event.Name == "" {
					event.Name = "message"
				}
				if !yield(event, nil) {
					return
				}
			}
			event, data, some, size = Event{ID: event.ID}, nil, false, 0
		}
	}
}

// readLine reads a line without its end. A part of one at the end is io.EOF.
func readLine(in *bufio.Reader, most int) ([]byte, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > most {
			return nil, fmt.Errorf("an event is larger than %d bytes", MaxEventBytes)
		}
		if err == nil {
			return bytes.TrimSuffix(line[:len(line)-1], []byte("\r")), nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
	}
}
