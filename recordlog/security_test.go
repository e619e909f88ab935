// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"muster/recordlog"
)

func TestSASL(t *testing.T) {
	for _, mechanism := range []string{"plain", "scram-sha-256", "scram-sha-512"} {
		t.Run(mechanism, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := startBroker(t, kfake.EnableSASL(),
					kfake.Superuser(strings.ToUpper(mechanism), "muster", "right"),
					kfake.Superuser("PLAIN", "reader", "reads"))
				wrong := startLog(t, b, func(o *recordlog.Options) {
					o.SASL = &recordlog.SASL{Mechanism: mechanism, User: "muster", Password: "wrong"}
					o.FlushTimeout = time.Second
				})
				wrong.append(t, "agent-1", "never")
				time.Sleep(5 * time.Second)
				synctest.Wait()
				if s := wrong.Status(); s.Up || !strings.Contains(s.LastError, "check Kafka's user and password") {
					t.Errorf("Status with a wrong password = %+v, want it to say so", s)
				}
				if strings.Contains(wrong.logs.String(), "wrong") {
					t.Errorf("the password is in the log:\n%s", wrong.logs)
				}
				wrong.stop()

				l := startLog(t, b, func(o *recordlog.Options) {
					o.SASL = &recordlog.SASL{Mechanism: mechanism, User: "muster", Password: "right"}
				})
				w := fill(t, l, 10)
				l.settled(t)
				w.check(t, b.read(t, kgo.SASL(plain.Auth{User: "reader", Pass: "reads"}.AsMechanism())), 8)
			})
		})
	}
}

func TestTLS(t *testing.T) {
	ca := newAuthority(t)
	synctest.Test(t, func(t *testing.T) {
		b := startBroker(t, kfake.TLS(&tls.Config{Certificates: []tls.Certificate{ca.server}}))
		distrustful := startLog(t, b, func(o *recordlog.Options) {
			o.TLS = &tls.Config{RootCAs: x509.NewCertPool()}
		})
		l := startLog(t, b, func(o *recordlog.Options) { o.TLS = &tls.Config{RootCAs: ca.pool} })
		w := fill(t, l, 11)
		l.settled(t)
		reader := tls.Config{RootCAs: ca.pool, ServerName: kafkaIP}
		w.check(t, b.read(t, kgo.Dialer(func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := b.network.Host(readerIP).DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return tls.Client(c, &reader), nil
		})), 8)
		if s := distrustful.Status(); s.Up || !strings.Contains(s.LastError, "check the CA") {
			t.Errorf("Status with an unknown CA = %+v, want it to say so", s)
		}
	})
}

// authority is a CA and a certificate of it for the broker's address.
type authority struct {
	pool   *x509.CertPool
	server tls.Certificate
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "kafka"},
		IPAddresses:  []net.IP{net.ParseIP(kafkaIP)},
		NotBefore:    time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC), // a bubble's clock starts in 2000
		NotAfter:     time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC),
		IsCA:         true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a := authority{pool: x509.NewCertPool(), server: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}}
	a.pool.AddCert(cert)
	return a
}

func TestTopicThatMayNotBeCreatedIsExplained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		write := kfake.ACL{
			Resource: kmsg.ACLResourceTypeTopic, Name: topic, Pattern: kmsg.ACLResourcePatternTypeLiteral,
			Operation: kmsg.ACLOperationWrite, Allow: true,
		}
		describe := write
		describe.Operation = kmsg.ACLOperationDescribe
		b := startBroker(t, kfake.EnableSASL(), kfake.EnableACLs(),
			kfake.User("PLAIN", "muster", "pw", write, describe), kfake.Superuser("PLAIN", "admin", "admin"))
		if err := b.DeleteTopic(topic); err != nil {
			t.Fatal(err)
		}
		l := startLog(t, b, func(o *recordlog.Options) {
			o.SASL = &recordlog.SASL{Mechanism: "plain", User: "muster", Password: "pw"}
		})
		l.append(t, "agent-1", "patient")
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if s := l.Status(); s.Up || !strings.Contains(s.LastError, "kafka-topics.sh --create --topic hids_svr --partitions 8") {
			t.Errorf("Status = %+v, want it to say how to create the topic", s)
		}
		if err := b.CreateTopic(topic, 2, nil); err != nil {
			t.Fatal(err)
		}
		l.settled(t)
		reader := kgo.SASL(plain.Auth{User: "admin", Pass: "admin"}.AsMechanism())
		wants{"agent-1": {"patient"}}.check(t, b.read(t, reader), 2)
	})
}

func TestOptionsAreValidated(t *testing.T) {
	good := recordlog.Options{
		Brokers: []string{"127.0.0.1:9092"}, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	}
	for name, change := range map[string]func(*recordlog.Options){
		"Brokers":         func(o *recordlog.Options) { o.Brokers = nil },
		"Brokers: \"h\"":  func(o *recordlog.Options) { o.Brokers = []string{"h"} },
		"Compression":     func(o *recordlog.Options) { o.Compression = "brotli" },
		"SASL: mechanism": func(o *recordlog.Options) { o.SASL = &recordlog.SASL{Mechanism: "gssapi", User: "u"} },
		"SASL: a user":    func(o *recordlog.Options) { o.SASL = &recordlog.SASL{Mechanism: "plain"} },
		"Partitions":      func(o *recordlog.Options) { o.Partitions = -1 },
		"MaxRecordBytes":  func(o *recordlog.Options) { o.MaxRecordBytes = 100 },
		"MaxPendingBytes": func(o *recordlog.Options) { o.MaxPendingBytes = 2000 },
		"FlushTimeout":    func(o *recordlog.Options) { o.FlushTimeout = -1 },
		"Logger":          func(o *recordlog.Options) { o.Logger = nil },
		"Registerer":      func(o *recordlog.Options) { o.Registerer = nil },
	} {
		opts := good
		change(&opts)
		if _, err := recordlog.New(opts); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("New = %v, want an error that names %s", err, name)
		}
	}
	if _, err := recordlog.New(good); err != nil {
		t.Errorf("New = %v, want nil", err)
	}
	if _, err := recordlog.New(good); err == nil {
		t.Error("New with a registerer in use = nil, want an error")
	}
}
