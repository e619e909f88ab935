// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package apiclient

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// DefaultTimeout bounds one request, its answer included, unless Options says
// otherwise. It is longer than any wait of a node, which is 10 s.
const DefaultTimeout = 30 * time.Second

// maxBodyBytes bounds an answer: a page of 1000 agents with all that they say
// is a few megabytes.
const maxBodyBytes = 64 << 20

// Options says where the node is and who asks.
type Options struct {
	// Addr is the node's URL, like http://127.0.0.1:6701.
	Addr string
	// Token is the bearer token; empty for routes that need none.
	Token string
	// TLS is used for https; nil means the system's CAs.
	TLS *tls.Config
	// Transport replaces the client's own; TLS is not looked at then.
	Transport http.RoundTripper
	// Timeout bounds one request; 0 means DefaultTimeout.
	Timeout time.Duration
	// UserAgent is sent with each request, if it is set.
	UserAgent string
	// Missing is told of the nodes that an answer lacks; it may be nil.
	Missing func(nodes []string)
}

// headerMissing names nodes that did not answer the one that was asked.
const headerMissing = "X-Muster-Missing"

func (o Options) validate() (*url.URL, error) {
	base, err := url.Parse(o.Addr)
	if err != nil || (base.Scheme != "http" && base.Scheme != "https") || base.Host == "" {
		return nil, fmt.Errorf("addr %q is not a URL like http://127.0.0.1:6701", o.Addr)
	}
	if strings.ContainsAny(o.Token, " \t\r\n") {
		return nil, errors.New("token holds spaces: the token file should have one line with the token alone")
	}
	if o.Timeout < 0 {
		return nil, fmt.Errorf("timeout %s is negative", o.Timeout)
	}
	return base, nil
}

// Client calls one node. It is safe for concurrent use.
type Client struct {
	base    *url.URL
	opts    Options
	plain   *http.Client
	endless *http.Client // without a time limit, for streams
}

// New makes a client; it does not connect.
func New(opts Options) (*Client, error) {
	base, err := opts.validate()
	if err != nil {
		return nil, err
	}
	if opts.Timeout == 0 {
		opts.Timeout = DefaultTimeout
	}
	transport := opts.Transport
	if transport == nil {
		transport = &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			TLSClientConfig:     opts.TLS,
			TLSHandshakeTimeout: 10 * time.Second,
			ForceAttemptHTTP2:   true,
		}
	}
	endless := &http.Client{
		Transport: transport,
		// A token must not follow a redirect to a host that nobody named.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	plain := *endless
	plain.Timeout = opts.Timeout
	return &Client{base: base, opts: opts, plain: &plain, endless: endless}, nil
}

// Addr is the node's URL.
func (c *Client) Addr() string { return c.base.String() }

// Close ends idle connections.
func (c *Client) Close() { c.plain.CloseIdleConnections() }

// Do sends in as JSON, unless it is nil, and decodes the answer into out,
// unless it is nil. The path begins with a slash and may hold a query; make
// its parts with Path. A refusal is an *Error, a node that cannot be reached
// an *Unreachable.
func (c *Client) Do(ctx context.Context, method, path string, in, out any) error {
	req, err := c.request(ctx, method, path, in)
	if err != nil {
		return err
	}
	resp, err := c.plain.Do(req)
	if err != nil {
		return unreachable(c.base, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBodyBytes+1))
	if err != nil {
		return unreachable(c.base, err)
	}
	if len(body) > maxBodyBytes {
		return fmt.Errorf("%s %s: the answer is larger than %d MiB", method, path, maxBodyBytes>>20)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return problem(c.base, resp, body)
	}
	if nodes := resp.Header.Get(headerMissing); nodes != "" && c.opts.Missing != nil {
		c.opts.Missing(strings.Split(nodes, ","))
	}
	if out == nil || len(body) == 0 {
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("%s %s: the answer is not what this client understands; is %s a Muster node of about this version? %w", method, path, c.base, err)
	}
	return nil
}

func (c *Client) request(ctx context.Context, method, path string, in any) (*http.Request, error) {
	ref, err := url.Parse(path)
	if err != nil || !strings.HasPrefix(path, "/") {
		return nil, fmt.Errorf("path %q is not one of an API", path)
	}
	target := *c.base
	target.Path = strings.TrimSuffix(c.base.Path, "/") + ref.Path
	target.RawPath = strings.TrimSuffix(c.base.EscapedPath(), "/") + ref.EscapedPath()
	target.RawQuery = ref.RawQuery
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("encode the request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, target.String(), body)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.opts.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.opts.Token)
	}
	if c.opts.UserAgent != "" {
		req.Header.Set("User-Agent", c.opts.UserAgent)
	}
	req.Header.Set("Accept", "application/json, application/problem+json")
	return req, nil
}

// Path joins parts to a path, escaping each: Path("v1", "agents", id).
func Path(parts ...string) string {
	var b strings.Builder
	for _, p := range parts {
		b.WriteByte('/')
		b.WriteString(url.PathEscape(p))
	}
	return b.String()
}
