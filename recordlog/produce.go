// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/initproducerid"
	"github.com/segmentio/kafka-go/protocol/produce"
)

const (
	// idleLimit is how long a connection may rest before it is opened anew:
	// brokers and balancers close idle ones, some of them silently.
	idleLimit = 4 * time.Minute

	backoffMin = 50 * time.Millisecond
	backoffMax = 2 * time.Second
)

// backoff is the pause after so many failures in a row: doubling, capped,
// shortened by up to a half at random.
func backoff(failures int) time.Duration {
	d := backoffMin << min(failures-1, 10)
	d = min(d, backoffMax)
	return d - rand.N(d/2)
}

// errNoLeader: the metadata names no leader for the partition.
var errNoLeader = kafka.LeaderNotAvailable

// unsentError is what went wrong before a batch was sent.
type unsentError struct{ err error }

func (e *unsentError) Error() string { return e.err.Error() }
func (e *unsentError) Unwrap() error { return e.err }

// send makes one attempt to have b written.
func (p *partition) send(ctx context.Context, b *batch, wire []byte) error {
	if err := p.toLeader(ctx); err != nil {
		return &unsentError{err}
	}
	if !p.producer.known {
		if err := p.initProducer(ctx); err != nil {
			return &unsentError{err}
		}
	}
	p.sends(b)
	p.producer.stamp(wire)
	start := time.Now()
	if err := p.produce(ctx, wire); err != nil {
		return err
	}
	p.log.metrics.produced(time.Since(start), len(wire), b.count)
	return nil
}

// toLeader sees to it that the connection is to the partition's leader.
func (p *partition) toLeader(ctx context.Context) error {
	addr := p.log.cluster.Load().leader(p.id)
	if addr == "" {
		return errNoLeader
	}
	if p.conn != nil && p.conn.addr == addr && time.Since(p.conn.used) < idleLimit {
		return nil
	}
	p.conn.close()
	p.conn = nil
	c, err := p.log.client.connect(ctx, addr)
	if err != nil {
		return err
	}
	p.conn = c
	return nil
}

// initProducer obtains a producer ID. Any broker gives one; a partition has its
// own, so that losing it costs the others nothing.
func (p *partition) initProducer(ctx context.Context) error {
	res, err := p.conn.roundTrip(ctx, &initproducerid.Request{ProducerID: -1, ProducerEpoch: -1})
	if err != nil {
		return fmt.Errorf("asking %s for a producer ID: %w", p.conn.addr, err)
	}
	r, ok := res.(*initproducerid.Response)
	if !ok {
		return fmt.Errorf("asking %s for a producer ID: unexpected answer %T", p.conn.addr, res)
	}
	if err := codeError(r.ErrorCode); err != nil {
		return fmt.Errorf("asking %s for a producer ID: %w", p.conn.addr, err)
	}
	p.producer = producer{id: r.ProducerID, epoch: r.ProducerEpoch, known: true}
	return nil
}

// produce sends a stamped batch and returns the broker's verdict.
func (p *partition) produce(ctx context.Context, wire []byte) error {
	p.conn.batches++
	res, err := p.conn.roundTrip(ctx, &produceRequest{
		raw:           p.conn.raw,
		correlationID: p.conn.batches,
		topic:         p.log.opts.Topic,
		partition:     int32(p.id),
		timeout:       p.log.opts.RequestTimeout * 4 / 5,
		wire:          wire,
	})
	if err != nil {
		return fmt.Errorf("sending a batch to %s: %w", p.conn.addr, err)
	}
	r, ok := res.(*produce.Response)
	if !ok || len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 1 {
		return fmt.Errorf("sending a batch to %s: unexpected answer", p.conn.addr)
	}
	answer := r.Topics[0].Partitions[0]
	if err := codeError(answer.ErrorCode); err != nil {
		return fmt.Errorf("%s refused a batch: %w", p.conn.addr, err)
	}
	return nil
}

// The reasons for which a batch is sent again. The set is fixed.
const (
	reasonConnect   = "connect"      // no connection; nothing was sent
	reasonNoAnswer  = "no_answer"    // sent, perhaps written
	reasonLeader    = "leader"       // another broker leads, or none, or the topic is gone
	reasonReplicas  = "replicas"     // too few in-sync replicas, or they are slow
	reasonProducer  = "producer"     // a new producer ID is needed
	reasonForbidden = "forbidden"    // not authenticated or not authorized
	reasonTooLarge  = "too_large"    // the batch is split
	reasonBroker    = "broker_error" // anything else the broker said
)

var retryReasons = []string{
	reasonConnect, reasonNoAnswer, reasonLeader, reasonReplicas,
	reasonProducer, reasonForbidden, reasonTooLarge, reasonBroker,
}

// outcome says what follows from an attempt.
type outcome struct {
	done, tooLarge bool

	reason      string // of the retry
	uncertain   bool   // the batch may have been written
	newProducer bool
	reconnect   bool
}

// judge decides what follows from an attempt's error.
func judge(err error) outcome {
	if err == nil {
		return outcome{done: true}
	}
	code, answered := errors.AsType[kafka.Error](err)
	if _, unsent := errors.AsType[*unsentError](err); unsent {
		o := outcome{reason: reasonConnect, reconnect: true}
		if answered {
			o.reason = judgeCode(code).reason
		}
		return o
	}
	if answered {
		return judgeCode(code)
	}
	return outcome{reason: reasonNoAnswer, uncertain: true, reconnect: true}
}

func judgeCode(code kafka.Error) outcome {
	switch code {
	case kafka.DuplicateSequenceNumber: // written by an earlier attempt
		return outcome{done: true}
	case kafka.MessageSizeTooLarge, kafka.RecordListTooLarge:
		return outcome{tooLarge: true, reason: reasonTooLarge}
	case kafka.UnknownProducerId, kafka.InvalidProducerEpoch, kafka.OutOfOrderSequenceNumber,
		kafka.InvalidProducerIDMapping, kafka.ProducerFenced:
		return outcome{reason: reasonProducer, newProducer: true}
	case kafka.Unknown:
		// A broker whose disk failed may have noted the sequence without the
		// records (kfake does); the old ID would take the retry for a double.
		return outcome{reason: reasonBroker, uncertain: true, newProducer: true, reconnect: true}
	case kafka.NotLeaderForPartition, kafka.LeaderNotAvailable, kafka.UnknownTopicOrPartition,
		kafka.FencedLeaderEpoch, kafka.UnknownLeaderEpoch, kafka.BrokerNotAvailable:
		return outcome{reason: reasonLeader, reconnect: true}
	case kafka.RequestTimedOut, kafka.NotEnoughReplicasAfterAppend:
		return outcome{reason: reasonReplicas, uncertain: true}
	case kafka.NotEnoughReplicas:
		return outcome{reason: reasonReplicas}
	case kafka.SASLAuthenticationFailed, kafka.UnsupportedSASLMechanism, kafka.TopicAuthorizationFailed,
		kafka.ClusterAuthorizationFailed:
		return outcome{reason: reasonForbidden, reconnect: true}
	default:
		return outcome{reason: reasonBroker, uncertain: true}
	}
}

// explain adds what to do about an error, where that is known.
func explain(err error, topic string) string {
	var invalid x509.CertificateInvalidError
	var certificate *tls.CertificateVerificationError
	var network *net.OpError
	text := err.Error()
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return text + "; renew the broker's certificate, if this machine's clock is right"
	case errors.As(err, &certificate):
		return text + "; check the CA that the brokers' certificates are checked with"
	case errors.As(err, &network) && network.Op == "remote error": // a TLS alert
		return text + "; the broker does not take the certificate that it is shown, or wants one: check it, its key and its CA"
	case errors.Is(err, kafka.SASLAuthenticationFailed):
		return text + "; check Kafka's user and password"
	case errors.Is(err, kafka.UnsupportedSASLMechanism):
		return text + "; the brokers do not offer this SASL mechanism"
	case errors.Is(err, kafka.TopicAuthorizationFailed):
		return text + "; grant the user Write and Describe on topic " + topic
	case errors.Is(err, kafka.ClusterAuthorizationFailed):
		return text + "; grant the user IdempotentWrite on the cluster"
	case errors.Is(err, kafka.NotEnoughReplicas):
		return text + "; too few in-sync replicas: check the brokers"
	case errors.Is(err, kafka.GroupLoadInProgress):
		return text + "; it has just started: this passes"
	case errors.Is(err, kafka.InvalidTimestamp):
		return text + "; check this machine's clock"
	default:
		return text
	}
}
