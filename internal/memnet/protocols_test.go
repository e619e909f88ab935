// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package memnet_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"muster/internal/memnet"
)

// certificate returns server and client settings that trust each other.
func certificate(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		IPAddresses:  []net.IP{net.ParseIP(hostB)},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		IsCA:         true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	server = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	return server, &tls.Config{RootCAs: pool}
}

func TestHTTPOverTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		serverTLS, clientTLS := certificate(t)
		l := listen(t, n.Host(hostB), ":443")
		server := &http.Server{
			TLSConfig:         serverTLS,
			ReadHeaderTimeout: time.Second,
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				_, _ = w.Write(body)
			}),
		}
		var wg sync.WaitGroup
		wg.Go(func() { _ = server.ServeTLS(l, "", "") })
		transport := &http.Transport{
			DialContext:     n.Host(hostA).DialContext,
			TLSClientConfig: clientTLS,
		}
		body := strings.Repeat("x", 3*memnet.BufferBytes)
		client := &http.Client{Transport: transport, Timeout: time.Minute}
		answer, err := client.Post("https://"+hostB, "text/plain", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if err != nil || string(got) != body {
			t.Fatalf("read %d bytes back, want %d: %v", len(got), len(body), err)
		}
		transport.CloseIdleConnections()
		_ = server.Shutdown(t.Context())
		wg.Wait()
	})
}

func TestGRPCOverTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		serverTLS, clientTLS := certificate(t)
		l := listen(t, n.Host(hostB), ":6751")
		server := grpc.NewServer(grpc.Creds(credentials.NewTLS(serverTLS)))
		healthpb.RegisterHealthServer(server, health.NewServer())
		var wg sync.WaitGroup
		wg.Go(func() { _ = server.Serve(l) })
		conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(),
			grpc.WithTransportCredentials(credentials.NewTLS(clientTLS)),
			grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
				return n.Host(hostA).DialContext(ctx, "tcp", addr)
			}))
		if err != nil {
			t.Fatal(err)
		}
		client := healthpb.NewHealthClient(conn)
		answer, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{})
		if err != nil || answer.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			t.Fatalf("check = %v, %v", answer, err)
		}
		n.Partition(hostA, hostB)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := client.Check(ctx, &healthpb.HealthCheckRequest{}); err == nil {
			t.Fatal("an answer came over a partition")
		}
		n.Heal()
		if _, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
			t.Fatalf("check after heal: %v", err)
		}
		_ = conn.Close()
		server.Stop()
		wg.Wait()
	})
}
