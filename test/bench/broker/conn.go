// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Requests of Kafka's protocol that are answered, each in one version.
const (
	keyProduce         = 0
	keyMetadata        = 3
	keyVersions        = 18
	keyCreateTopics    = 19
	keyInitProducer    = 22
	keyDescribeConfigs = 32
	produceVersion     = 3
	metadataVersion    = 1
	otherVersion       = 0

	errUnsupported = 35
	errDuplicate   = 46
	errOutOfOrder  = 45
)

// Offsets in a record batch of format v2.
const (
	attributesAt     = 21
	producerAt       = 43
	epochAt          = 51
	sequenceAt       = 53
	countAt          = 57
	batchHeaderBytes = 61
)

const (
	// headBytes is more than a request with its first batch's header has before
	// the records.
	headBytes  = 4 << 10
	maxRequest = 64 << 20
	topic      = "hids_svr"
	hangStep   = 20 * time.Millisecond
)

// conn is one connection of a client.
type conn struct {
	broker *Broker
	tcp    *net.TCPConn
	raw    syscall.RawConn
	buf    []byte // head of a request, or all of it
	waste  []byte // where the kernel would put what it throws away
}

func newConn(b *Broker, tcp *net.TCPConn) *conn {
	return &conn{broker: b, tcp: tcp, buf: make([]byte, headBytes), waste: make([]byte, receiveBytes)}
}

// serve answers requests until one is not understood or the client leaves.
func (c *conn) serve() {
	var err error
	if c.raw, err = c.tcp.SyscallConn(); err != nil {
		return
	}
	for err == nil {
		err = c.request()
	}
}

// request reads and answers one request.
func (c *conn) request() error {
	var size [4]byte
	if _, err := io.ReadFull(c.tcp, size[:]); err != nil {
		return err
	}
	length := int(binary.BigEndian.Uint32(size[:]))
	if length < 8 || length > maxRequest {
		return fmt.Errorf("a request of %d bytes", length)
	}
	head := min(length, headBytes)
	if c.broker.look.Load() {
		head = length
	}
	if head > len(c.buf) {
		c.buf = make([]byte, head+head/4)
	}
	if _, err := io.ReadFull(c.tcp, c.buf[:head]); err != nil {
		return err
	}
	if err := c.discard(length - head); err != nil {
		return err
	}
	for c.broker.hung.Load() {
		<-time.After(hangStep)
	}
	return c.answer(&reader{b: c.buf[:head]}, head == length)
}

// discard lets the kernel forget n bytes, without copying them.
func (c *conn) discard(n int) error {
	for n > 0 {
		var got int
		var err error
		waited := c.raw.Read(func(fd uintptr) bool {
			got, _, err = unix.Recvfrom(int(fd), c.waste[:min(n, len(c.waste))], unix.MSG_TRUNC)
			return !errors.Is(err, unix.EAGAIN)
		})
		switch {
		case waited != nil:
			return waited
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case got == 0:
			return io.EOF
		}
		n -= max(got, 0)
	}
	return nil
}

// answer deals with a request, of which all or only the head is there.
func (c *conn) answer(r *reader, whole bool) error {
	key, version, id := r.int16(), r.int16(), r.int32()
	r.text() // the client's name
	w := &writer{b: make([]byte, 4, 256)}
	w.int32(id)
	switch {
	case key == keyVersions:
		c.versions(w, version)
	case key == keyMetadata && version == metadataVersion:
		c.metadata(w, r)
	case key == keyInitProducer && version == otherVersion:
		c.initProducer(w)
	case key == keyCreateTopics && version == otherVersion:
		w.array(1)
		r.int32()
		w.text(r.text())
		w.int16(0)
	case key == keyDescribeConfigs && version == otherVersion:
		c.configs(w, r)
	case key == keyProduce && version == produceVersion:
		if err := c.produce(w, r, whole); err != nil {
			return err
		}
	default:
		return fmt.Errorf("request %d version %d", key, version)
	}
	if r.failed {
		return errors.New("a malformed request")
	}
	binary.BigEndian.PutUint32(w.b, uint32(len(w.b)-4)) //nolint:gosec // small
	_, err := c.tcp.Write(w.b)
	return err
}

func (c *conn) versions(w *writer, asked int16) {
	if asked > 2 {
		w.int16(errUnsupported)
		w.array(0)
		return
	}
	w.int16(0)
	all := [][2]int16{
		{keyProduce, produceVersion},
		{keyMetadata, metadataVersion},
		{keyVersions, otherVersion},
		{keyCreateTopics, otherVersion},
		{keyInitProducer, otherVersion},
		{keyDescribeConfigs, otherVersion},
	}
	w.array(len(all))
	for _, k := range all {
		w.int16(k[0])
		w.int16(k[1])
		w.int16(k[1])
	}
	if asked > 0 {
		w.int32(0) // no throttling
	}
}

func (c *conn) metadata(w *writer, r *reader) {
	w.array(1)
	w.int32(1)
	w.text(c.broker.host)
	w.int32(c.broker.port)
	w.int16(-1)               // no rack
	w.int32(1)                // the controller
	topics := []string{topic} // of all that there are
	if n := int(r.int32()); n >= 0 {
		topics = topics[:0]
		for range n {
			topics = append(topics, r.text())
		}
	}
	w.array(len(topics))
	for _, name := range topics {
		w.int16(0)
		w.text(name)
		w.b = append(w.b, 0) // not internal
		w.array(Partitions)
		for i := range int32(Partitions) {
			w.int16(0)
			w.int32(i)
			w.int32(1)
			w.array(1)
			w.int32(1)
			w.array(1)
			w.int32(1)
		}
	}
}

// configs tells the only one that anybody asks for.
func (c *conn) configs(w *writer, r *reader) {
	w.int32(0) // no throttling
	n := max(int(r.int32()), 0)
	w.array(n)
	for range n {
		kind, name := r.take(1)[0], r.text()
		for range max(int(r.int32()), 0) {
			r.text()
		}
		w.int16(0)
		w.int16(-1) // no error
		w.b = append(w.b, kind)
		w.text(name)
		w.array(1)
		w.text("max.message.bytes")
		w.text("1048588")
		w.b = append(w.b, 0, 1, 0) // a default that is no secret
	}
}

func (c *conn) initProducer(w *writer) {
	w.int32(0)
	w.int16(0)
	w.int64(c.broker.producers.newID())
	w.int16(0)
}

// produce enters one batch of one partition, which is all that is asked of it.
func (c *conn) produce(w *writer, r *reader, whole bool) error {
	r.text() // transaction
	r.int16()
	r.int32()
	if r.int32() != 1 {
		return errors.New("a produce request with other than one topic")
	}
	topic := r.text()
	if r.int32() != 1 {
		return errors.New("a produce request with other than one partition")
	}
	partition, size := r.int32(), int(r.int32())
	if r.failed || len(r.b) < batchHeaderBytes {
		return errors.New("a produce request without a batch")
	}
	if d := c.broker.delay.Load(); d > 0 {
		<-time.After(time.Duration(d))
	}
	var batch []byte
	if whole && size == len(r.b) {
		batch = r.b
	}
	code := c.broker.take(partition, r.b[:batchHeaderBytes], size, batch)
	w.array(1)
	w.text(topic)
	w.array(1)
	w.int32(partition)
	w.int16(code)
	w.int64(0)
	w.int64(-1)
	w.int32(0)
	return nil
}

// take enters a batch, of which the body may have gone, and returns Kafka's code.
func (b *Broker) take(partition int32, header []byte, size int, batch []byte) int16 {
	count := int64(binary.BigEndian.Uint32(header[countAt:]))
	switch code := b.producers.sequence(partition, header); code {
	case errDuplicate:
		b.duplicates.Add(1)
		return 0
	case 0:
	default:
		return code
	}
	b.records.Add(count)
	b.batches.Add(1)
	b.bytes.Add(int64(size))
	if batch != nil {
		b.book.enter(batch)
	}
	return 0
}
