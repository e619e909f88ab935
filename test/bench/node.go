// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"runtime"
	"sync"
	"time"

	"muster/internal/gcpace"
	"muster/node"
)

// nodeCmd is muster server with pprof on an address of its own, which the
// product does not have.
type nodeCmd struct {
	Pprof string      `default:"127.0.0.1:6060" placeholder:"HOST:PORT" help:"Where go tool pprof finds /debug/pprof."`
	Block bool        `help:"Sample waits for locks and channels, too, which costs CPU."`
	Node  node.Config `embed:""`
}

// Run is called by kong.
func (c *nodeCmd) Run(ctx context.Context) error {
	if c.Block {
		runtime.SetBlockProfileRate(10_000)
		runtime.SetMutexProfileFraction(10)
	}
	c.Node.AdminPassword = os.Getenv("MUSTER_ADMIN_PASSWORD")
	n, err := node.New(c.Node, node.Env{Logger: slog.New(slog.NewJSONHandler(os.Stderr, nil)), Build: node.Build{Version: "bench"}})
	if err != nil {
		return err
	}
	stop, err := servePprof(c.Pprof)
	if err != nil {
		return err
	}
	defer stop()
	pace, unpace := context.WithCancel(ctx) // as cmd/muster does
	var pacing sync.WaitGroup
	pacing.Go(func() { _ = gcpace.Run(pace) })
	defer pacing.Wait()
	defer unpace()
	return n.Run(ctx)
}

func servePprof(addr string) (stop func(), err error) {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	return func() {
		_ = server.Close()
		serving.Wait()
	}, nil
}
