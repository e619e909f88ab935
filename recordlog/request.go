// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/segmentio/kafka-go/protocol"
)

// clientID is what brokers see of us in their logs and quotas.
const clientID = "muster"

// produceRequest asks a broker to write one batch. kafka-go's own request copies
// the batch twice on its way to the connection; this one is sent from where it lies.
type produceRequest struct {
	raw           net.Conn // what kafka-go's connection writes to
	correlationID int32
	version       int16 // as agreed with the broker; 3 to 8 have one layout
	topic         string
	partition     int32
	timeout       time.Duration // for the in-sync replicas
	wire          []byte        // a framed batch, after its size
}

var _ protocol.RawExchanger = (*produceRequest)(nil)

// ApiKey implements protocol.Message.
func (*produceRequest) ApiKey() protocol.ApiKey { return protocol.Produce }

// Required implements protocol.RawExchanger.
func (r *produceRequest) Required(versions map[protocol.ApiKey]int16) bool {
	r.version = versions[protocol.Produce]
	return true
}

// RawExchange implements protocol.RawExchanger.
func (r *produceRequest) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	if r.version < 3 {
		return nil, fmt.Errorf("the broker takes no batches of format v2, only produce requests up to version %d", r.version)
	}
	out := net.Buffers{r.head(), r.wire} // one system call for both, if the connection is of TCP
	if _, err := out.WriteTo(r.raw); err != nil {
		return nil, err
	}
	id, answer, err := protocol.ReadResponse(rw, protocol.Produce, r.version)
	if err != nil {
		return nil, err
	}
	if id != r.correlationID {
		return nil, fmt.Errorf("the answer is to request %d, not to %d", id, r.correlationID)
	}
	return answer, nil
}

// head is all of the request before the batch.
func (r *produceRequest) head() []byte {
	be := binary.BigEndian
	text := func(b []byte, s string) []byte {
		return append(be.AppendUint16(b, uint16(len(s))), s...) //nolint:gosec // a topic has at most 249 characters
	}
	b := make([]byte, 4, 64+len(clientID)+len(r.topic))
	b = be.AppendUint16(b, uint16(protocol.Produce))
	b = be.AppendUint16(b, uint16(r.version))       //nolint:gosec // 3 to 8
	b = be.AppendUint32(b, uint32(r.correlationID)) //nolint:gosec // the same bits
	b = text(b, clientID)
	b = append(b, 0xff, 0xff) // no transaction
	b = append(b, 0xff, 0xff) // acknowledged by all in-sync replicas
	b = be.AppendUint32(b, uint32(r.timeout.Milliseconds()))
	b = be.AppendUint32(b, 1) // topics
	b = text(b, r.topic)
	b = be.AppendUint32(b, 1)                     // partitions
	b = be.AppendUint32(b, uint32(r.partition))   //nolint:gosec // never negative
	be.PutUint32(b, uint32(len(b)-4+len(r.wire))) //nolint:gosec // at most message.max.bytes and some
	return b
}
