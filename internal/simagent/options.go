// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package simagent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"muster/internal/agentpb"
	"muster/internal/grpccodec"
)

// Product is what the agent calls itself, as a component and in its records.
const Product = "elkeid-agent"

// ServerName is the DNS name that an agent wants in the server's certificate,
// whatever address it dialled.
const ServerName = "elkeid.com"

// DefaultVersion is the version that agents report until they update themselves.
const DefaultVersion = "1.9.1.145"

// Options describes a fleet. At least one of SD and Addrs is needed; Agents, TLS
// and Logger are needed always.
type Options struct {
	// SD are base URLs (http://HOST:PORT) of service discoveries, asked in order
	// until one answers well; a stock agent has one.
	SD []string
	// RandomSD starts each look-up at a random SD and goes on from there.
	RandomSD bool
	// Addrs are HOST:PORT to try in order when SD gives nothing that works: the
	// first as a stock agent's private address, the others as public ones.
	Addrs []string
	// TLS has the client certificate and the CA that is trusted. ServerName is
	// set by New.
	TLS *tls.Config
	// Dial opens connections to agent ports; nil means the operating system's.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// HTTP carries the SD look-ups; nil means a transport of the fleet's own.
	HTTP http.RoundTripper
	// Agents is how many there are.
	Agents int
	// Load says what they send.
	Load Load
	// Compression is one of grpccodec.Names; empty means snappy.
	Compression string
	// Seed decides agent IDs and host names: the same seed, the same fleet.
	Seed uint64
	// Systemd restarts an agent 45 s after it ended, without plugins.
	Systemd bool
	// Plugins run from the first start on, as if configured before.
	Plugins []Plugin
	// FilesDir holds the files that upload tasks (1050) may ask for; empty means
	// that every path has SyntheticFileBytes of made-up content.
	FilesDir string
	// Hooks let tests look and interfere.
	Hooks Hooks
	// Logger gets at Info level why agents did not connect, lost their stream or
	// ended; there may be thousands of them.
	Logger *slog.Logger
}

// Load says what each agent sends besides heartbeats and replies.
type Load struct {
	// Rate is data records a second. Zero with Records means as fast as the
	// buffer is emptied; zero without means none.
	Rate float64
	// Batch is the most records in one message; zero means all that the buffer
	// holds, as a stock agent does.
	Batch int
	// Records is how many data records an agent makes in all, then it sends what
	// is left, closes its stream and is finished. Zero means no end.
	Records uint64
	// Duration ends an agent in the same way this long after its start. Zero
	// means no end.
	Duration time.Duration
	// Ramp spreads the agents' starts evenly.
	Ramp time.Duration
}

// Plugin is one that runs on an agent.
type Plugin struct {
	Name    string
	Version string
}

// Hooks are called from the agents' goroutines, for many agents at once, and
// must not block for long. Any of them may be nil.
type Hooks struct {
	// OnCommand sees each command before the agent acts on it.
	OnCommand func(agentID string, command *agentpb.Command)
	// Answer decides a plugin's answer to a task; ok false means that the plugin
	// is busy and drops the task. Nil: all tasks succeed.
	Answer func(agentID string, task *agentpb.Task) (status, msg string, ok bool)
}

func (o *Options) validate() error {
	switch {
	case o.Agents < 1:
		return fmt.Errorf("Agents is %d, at least 1 is needed", o.Agents)
	case len(o.SD) == 0 && len(o.Addrs) == 0:
		return errors.New("SD and Addrs are both empty: say where the agents should connect")
	case o.TLS == nil:
		return errors.New("TLS is nil: agents need a client certificate and the CA")
	case o.Logger == nil:
		return errors.New("Logger is nil")
	case !grpccodec.Known(o.Compression):
		return fmt.Errorf("Compression %q is none of %v", o.Compression, grpccodec.Names())
	case o.Load.Rate < 0 || o.Load.Batch < 0 || o.Load.Duration < 0 || o.Load.Ramp < 0:
		return errors.New("Load has a negative value")
	}
	for _, base := range o.SD {
		u, err := url.Parse(base)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			return fmt.Errorf("SD %q is not a URL like http://HOST:PORT", base)
		}
	}
	for _, addr := range o.Addrs {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return fmt.Errorf("Addrs: %q is not HOST:PORT: %w", addr, err)
		}
	}
	return nil
}

// LoadTLS reads PEM files of a client certificate, its key and the CA into what
// Options.TLS wants.
func LoadTLS(certFile, keyFile, caFile string) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("load client certificate: %w", err)
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("load CA: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("load CA: %s holds no PEM certificate", caFile)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, MinVersion: tls.VersionTLS12}, nil
}
