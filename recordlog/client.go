// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/apiversions"
	"github.com/segmentio/kafka-go/protocol/saslauthenticate"
	"github.com/segmentio/kafka-go/protocol/saslhandshake"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"
)

// client opens connections to brokers. kafka-go's own Client is not used: its
// pool serves metadata from a cache that cannot be told to look again, sends
// InitProducerID through the transaction coordinator, and hands each request to
// another goroutine. One connection that its owner drives needs none of it.
type client struct {
	dial    Dialer
	tls     *tls.Config
	sasl    *SASL         // nil: none
	timeout time.Duration // of a connect, and of each request
}

func newClient(opts Options) (*client, error) {
	c := &client{dial: opts.Dial, tls: opts.TLS, sasl: opts.SASL, timeout: opts.RequestTimeout}
	if c.sasl == nil {
		return c, nil
	}
	_, err := c.sasl.mechanism()
	return c, err
}

// mechanism makes kafka-go's form of the credentials as they are now.
func (s *SASL) mechanism() (sasl.Mechanism, error) {
	if s.User == "" {
		return nil, errors.New("a user is needed")
	}
	password := s.Password
	if s.ReadPassword != nil {
		var err error
		if password, err = s.ReadPassword(); err != nil {
			return nil, err
		}
	}
	switch strings.ToLower(s.Mechanism) {
	case "plain":
		return plain.Mechanism{Username: s.User, Password: password}, nil
	case "scram-sha-256":
		return s.scram(scram.SHA256, password)
	case "scram-sha-512":
		return s.scram(scram.SHA512, password)
	default:
		return nil, fmt.Errorf("mechanism %q is none of plain, scram-sha-256 and scram-sha-512", s.Mechanism)
	}
}

func (s *SASL) scram(algo scram.Algorithm, password string) (sasl.Mechanism, error) {
	m, err := scram.Mechanism(algo, s.User, password)
	if err != nil {
		return nil, fmt.Errorf("preparing %s: %w", s.Mechanism, err)
	}
	return m, nil
}

// conn is a connection to one broker that is ready for requests. It belongs to
// one goroutine.
type conn struct {
	kafka   *protocol.Conn
	raw     net.Conn // beneath it
	addr    string
	timeout time.Duration
	used    time.Time // when the last request ended
	batches int32     // that were sent
}

func (c *conn) close() {
	if c != nil {
		_ = c.kafka.Close()
	}
}

// connect dials addr, sets up TLS, learns the broker's versions and logs in,
// all within the client's timeout.
func (c *client) connect(ctx context.Context, addr string) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	raw, err := c.dial(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", addr, err)
	}
	if c.tls != nil {
		if raw, err = c.secure(ctx, raw, addr); err != nil {
			return nil, fmt.Errorf("TLS handshake with %s: %w", addr, err)
		}
	}
	cn := &conn{kafka: protocol.NewConn(raw, clientID), raw: raw, addr: addr, timeout: c.timeout}
	if err := c.greet(ctx, cn); err != nil {
		cn.close()
		return nil, fmt.Errorf("greeting %s: %w", addr, err)
	}
	cn.used = time.Now()
	return cn, nil
}

// secure wraps raw in TLS; it closes raw if that fails.
func (c *client) secure(ctx context.Context, raw net.Conn, addr string) (net.Conn, error) {
	cfg := c.tls
	if cfg.ServerName == "" && !cfg.InsecureSkipVerify {
		cfg = cfg.Clone()
		cfg.ServerName, _, _ = net.SplitHostPort(addr)
	}
	secured := tls.Client(raw, cfg)
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("the broker hung up; check that it speaks TLS at this port: %w", err)
		}
		return nil, err
	}
	return secured, nil
}

// greet agrees on versions and logs in.
func (c *client) greet(ctx context.Context, cn *conn) error {
	res, err := cn.roundTrip(ctx, new(apiversions.Request))
	if err != nil {
		return err
	}
	offered, ok := res.(*apiversions.Response)
	if !ok {
		return fmt.Errorf("unexpected answer %T", res)
	}
	if err := codeError(offered.ErrorCode); err != nil {
		return err
	}
	versions := make(map[protocol.ApiKey]int16, len(offered.ApiKeys))
	for _, k := range offered.ApiKeys {
		key := protocol.ApiKey(k.ApiKey)
		versions[key] = key.SelectVersion(k.MinVersion, k.MaxVersion)
	}
	cn.kafka.SetVersions(versions)
	if c.sasl == nil {
		return nil
	}
	return c.login(ctx, cn)
}

// login goes through the SASL exchange.
func (c *client) login(ctx context.Context, cn *conn) error {
	mechanism, err := c.sasl.mechanism()
	if err != nil {
		return err
	}
	res, err := cn.roundTrip(ctx, &saslhandshake.Request{Mechanism: mechanism.Name()})
	if err != nil {
		return err
	}
	if r, ok := res.(*saslhandshake.Response); ok && r.ErrorCode != 0 {
		return kafka.Error(r.ErrorCode)
	}
	state, msg, err := mechanism.Start(ctx)
	if err != nil {
		return fmt.Errorf("starting SASL: %w", err)
	}
	for done := false; !done; {
		res, err := cn.roundTrip(ctx, &saslauthenticate.Request{AuthBytes: msg})
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("the broker hung up: %w", kafka.SASLAuthenticationFailed)
		}
		if err != nil {
			return err
		}
		answer, ok := res.(*saslauthenticate.Response)
		if !ok {
			return fmt.Errorf("unexpected answer %T", res)
		}
		if err := codeError(answer.ErrorCode); err != nil {
			return err
		}
		if done, msg, err = state.Next(ctx, answer.AuthBytes); err != nil {
			return fmt.Errorf("%w: %w", kafka.SASLAuthenticationFailed, err)
		}
	}
	return nil
}

// roundTrip sends one request and waits for its answer, at most the client's
// timeout or until ctx ends. After an error the connection is of no more use.
func (c *conn) roundTrip(ctx context.Context, req protocol.Message) (protocol.Message, error) {
	deadline := time.Now().Add(c.timeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := c.kafka.SetDeadline(deadline); err != nil {
		return nil, fmt.Errorf("setting a deadline: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.kafka.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	res, err := c.kafka.RoundTrip(req)
	c.used = time.Now()
	return res, err
}

// codeError is the error of an answer's code, nil for 0.
func codeError(code int16) error {
	if code == 0 {
		return nil
	}
	return kafka.Error(code)
}
