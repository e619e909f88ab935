// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package simagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
)

const (
	lookupPath = "/registry/detail?name=hids_svr_grpc&count=10"
	// maxLookupBytes bounds what is read of an SD's answer.
	maxLookupBytes = 1 << 20
)

// discovery asks service discoveries for servers. It is safe for concurrent use.
type discovery struct {
	bases    []string
	random   bool
	client   *http.Client
	counters *counters
}

// lookup returns addresses in the order that the first SD that answered well
// gave them. Like a stock agent it has no time limit of its own: ctx ends it.
func (d *discovery) lookup(ctx context.Context) ([]string, error) {
	if len(d.bases) == 0 {
		return nil, errors.New("no service discovery is configured")
	}
	first := 0
	if d.random {
		first = rand.IntN(len(d.bases))
	}
	var failures []error
	for i := range d.bases {
		d.counters.lookups.Add(1)
		addrs, err := d.ask(ctx, d.bases[(first+i)%len(d.bases)])
		if err == nil {
			return addrs, nil
		}
		d.counters.lookupFailures.Add(1)
		failures = append(failures, err)
	}
	return nil, errors.Join(failures...)
}

// ask judges the answer as a stock agent does: whatever the HTTP status, data
// must be a list that is not empty, of objects whose ip is a string and whose
// port and weight are integers.
func (d *discovery) ask(ctx context.Context, base string) ([]string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(base, "/")+lookupPath, nil)
	if err != nil {
		return nil, fmt.Errorf("ask SD %s: %w", base, err)
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask SD: %w", err)
	}
	defer resp.Body.Close()
	var answer struct {
		Data []struct {
			IP     string `json:"ip"`
			Port   int    `json:"port"`
			Weight int    `json:"weight"`
		} `json:"data"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxLookupBytes)).Decode(&answer); err != nil {
		return nil, fmt.Errorf("read answer of SD %s (%s): %w", base, resp.Status, err)
	}
	if len(answer.Data) == 0 {
		return nil, fmt.Errorf("SD %s (%s) lists no server", base, resp.Status)
	}
	addrs := make([]string, len(answer.Data))
	for i, server := range answer.Data {
		addrs[i] = net.JoinHostPort(server.IP, strconv.Itoa(server.Port))
	}
	return addrs, nil
}
