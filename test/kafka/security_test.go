// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package kafka_test

import (
	"crypto/tls"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"muster/recordlog"
	"muster/test/kafka"
)

func testSASL(t *testing.T, c *kafka.Cluster) {
	for _, mechanism := range []string{"plain", "scram-sha-256", "scram-sha-512"} {
		t.Run(mechanism, func(t *testing.T) {
			with := func(password string) func(*recordlog.Options) {
				return func(o *recordlog.Options) {
					o.Brokers = c.Addrs(kafka.SASL)
					o.SASL = &recordlog.SASL{Mechanism: mechanism, User: kafka.User, Password: password}
					o.FlushTimeout = time.Millisecond
				}
			}
			w := write(t, c, with(kafka.Password))
			w.burst(20, 5, 10)
			w.undoubled(c)

			wrong := writeTo(t, c, w.topic, with("wrong-secret"))
			wrong.lastErrorHas("check Kafka's user and password")
			if strings.Contains(wrong.logs.String()+wrong.Status().LastError, "wrong-secret") {
				t.Error("the password is shown")
			}
		})
	}
}

func testTLS(t *testing.T, c *kafka.Cluster) {
	trusting := &tls.Config{RootCAs: c.Authority.Pool()}
	mutual := &tls.Config{RootCAs: c.Authority.Pool(), Certificates: []tls.Certificate{c.Authority.Client()}}
	stranger := kafka.NewAuthority(t)
	for _, tt := range []struct {
		name   string
		at     kafka.Listener
		config *tls.Config
		advice string // "": all is well
	}{
		{"TLS", kafka.TLS, trusting, ""},
		{"mutual", kafka.MTLS, mutual, ""},
		{"WrongCA", kafka.TLS, &tls.Config{RootCAs: stranger.Pool()}, "check the CA"},
		{"SystemCAs", kafka.TLS, &tls.Config{RootCAs: x509.NewCertPool()}, "check the CA"},
		{"NoCertificate", kafka.MTLS, trusting, "wants one: check it, its key and its CA"},
		{
			"WrongCertificate", kafka.MTLS,
			&tls.Config{RootCAs: c.Authority.Pool(), Certificates: []tls.Certificate{stranger.Client()}},
			"does not take the certificate that it is shown",
		},
		{"PlainAtTLS", kafka.TLS, nil, "expecting TLS"},
		{"TLSAtPlain", kafka.Plain, trusting, "check that it speaks TLS at this port"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := write(t, c, func(o *recordlog.Options) {
				o.Brokers, o.TLS, o.FlushTimeout = c.Addrs(tt.at), tt.config, time.Millisecond
			})
			if tt.advice != "" {
				w.lastErrorHas(tt.advice)
				return
			}
			w.burst(20, 5, 10)
			w.undoubled(c)
		})
	}
}

// testLogInEnds has the brokers end each connection whose log-in is so old, as
// connections.max.reauth.ms of a real cluster may say.
func testLogInEnds(t *testing.T, c *kafka.Cluster) {
	w := write(t, c, func(o *recordlog.Options) {
		o.Brokers, o.TLS = c.Addrs(kafka.SASLTLS), &tls.Config{RootCAs: c.Authority.Pool()}
		o.SASL = &recordlog.SASL{Mechanism: "scram-sha-256", User: kafka.User, Password: kafka.Password}
	})
	stop := w.load(faultRate)
	<-time.After(4 * logInLasts)
	stop()
	w.undoubled(c)
}
