// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// StockServerName is the name for which stock Elkeid agents verify the server's
// certificate, whatever address they dialled.
const StockServerName = "elkeid.com"

// Lifetimes of issued certificates. Nodes renew their own ones by themselves;
// those of agents are renewed by a person, so they last longer.
const (
	nodeLifetime  = 90 * 24 * time.Hour
	agentLifetime = 2 * 365 * 24 * time.Hour
	fleetLifetime = 5 * 365 * 24 * time.Hour
)

const (
	uriScheme   = "muster"
	agentPrefix = "/agent/"
	nodePrefix  = "/node/"

	maxAgentIDBytes = 128
	// maxServerIDBytes is a name as long as an agent's ID may be, ~ and 8 digits.
	maxServerIDBytes = maxAgentIDBytes + 9
)

// Request says what a certificate is for. Make it with one of the functions
// below; Lifetime may be changed before it is issued.
type Request struct {
	CommonName string
	DNSNames   []string
	IPs        []netip.Addr
	URI        *url.URL // the identity that a client proves, or nil
	Server     bool     // may be presented by a server
	Client     bool     // may be presented by a client
	Lifetime   time.Duration
}

// AgentServerRequest is for the port that agents connect to: the stock name,
// the node's name, its addresses, and this machine.
func AgentServerRequest(node string, advertise ...netip.Addr) Request {
	return serverRequest([]string{StockServerName, node}, advertise)
}

// HTTPSRequest is for the API and the console: the node's name, the names by
// which people reach it, its addresses, and this machine.
func HTTPSRequest(node string, names []string, advertise ...netip.Addr) Request {
	return serverRequest(append([]string{node}, names...), advertise)
}

// NodeRequest is what a node shows to other nodes, as client and as server. The
// server ID contains its name, see NodeIdentity.
func NodeRequest(clusterID, serverID string) Request {
	return Request{
		CommonName: shorten("node " + serverID),
		URI:        identityURI(clusterID, nodePrefix, serverID),
		Server:     true,
		Client:     true,
		Lifetime:   nodeLifetime,
	}
}

// AgentRequest is for one agent: it can speak under this ID only.
func AgentRequest(clusterID, agentID string) Request {
	return Request{
		CommonName: shorten("agent " + agentID),
		URI:        identityURI(clusterID, agentPrefix, agentID),
		Client:     true,
		Lifetime:   agentLifetime,
	}
}

// FleetRequest is for agents that share one certificate and may speak under any
// ID. The name is for people, to tell fleets apart.
func FleetRequest(name string) Request {
	return Request{CommonName: shorten("fleet " + name), Client: true, Lifetime: fleetLifetime}
}

// serverRequest leaves out names that are no DNS names: nobody could verify
// them, and a node may be called anything. IP addresses among the names count.
func serverRequest(names []string, ips []netip.Addr) Request {
	r := Request{Server: true, Lifetime: nodeLifetime}
	for _, name := range append(names, "localhost") {
		if ip, err := netip.ParseAddr(name); err == nil {
			ips = append(ips, ip)
		} else if isDNSName(name) {
			r.DNSNames = append(r.DNSNames, name)
		}
	}
	for _, ip := range append(ips, netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()) {
		if ip.IsValid() && !ip.IsUnspecified() {
			r.IPs = append(r.IPs, ip.Unmap().WithZone(""))
		}
	}
	r.CommonName = shorten(names[0])
	return r
}

func (r *Request) validate() error {
	switch {
	case r.CommonName == "":
		return errors.New("its CommonName is empty")
	case r.Lifetime <= 0:
		return errors.New("its Lifetime is not positive")
	case !r.Server && !r.Client:
		return errors.New("neither Server nor Client is set")
	case r.URI == nil:
		return nil
	}
	if err := checkClusterID(r.URI.Host); err != nil {
		return fmt.Errorf("URI: %w", err)
	}
	if _, _, err := parseIdentity(r.URI); err != nil {
		return fmt.Errorf("URI: %w", err)
	}
	return nil
}

func (r *Request) netIPs() []net.IP {
	ips := make([]net.IP, 0, len(r.IPs))
	for _, ip := range r.IPs {
		ips = append(ips, ip.AsSlice())
	}
	return ips
}

func identityURI(clusterID, prefix, id string) *url.URL {
	return &url.URL{
		Scheme:  uriScheme,
		Host:    clusterID,
		Path:    prefix + id,
		RawPath: prefix + url.PathEscape(id),
	}
}

// parseIdentity takes a URI name apart again: kind is agentPrefix or nodePrefix.
func parseIdentity(u *url.URL) (kind, id string, err error) {
	if u.Scheme != uriScheme || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", "", fmt.Errorf("%q does not name an agent or a node", u)
	}
	for _, kind := range []string{agentPrefix, nodePrefix} {
		escaped, ok := strings.CutPrefix(u.EscapedPath(), kind)
		if !ok {
			continue
		}
		id, err := url.PathUnescape(escaped)
		longest := maxAgentIDBytes
		if kind == nodePrefix {
			longest = maxServerIDBytes
		}
		if err != nil || len(id) > longest || !isPrintable(id) {
			return "", "", fmt.Errorf("%q: an ID has 1 to %d printable ASCII characters without spaces", u, longest)
		}
		return kind, id, nil
	}
	return "", "", fmt.Errorf("%q does not name an agent or a node", u)
}

// checkClusterID keeps to what a URI's host may be without escapes.
func checkClusterID(id string) error {
	if !isLabel(strings.ToLower(id)) || id != strings.ToLower(id) {
		return fmt.Errorf("cluster ID %q: want 1 to 63 of a-z, 0-9 and -", id)
	}
	return nil
}

// isPrintable asks for at least one character, each of printable ASCII and no space.
func isPrintable(s string) bool {
	if s == "" {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

func isDNSName(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(strings.ToLower(s), ".") {
		if !isLabel(label) {
			return false
		}
	}
	return true
}

func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// shorten keeps to the 64 characters that a common name may have.
func shorten(s string) string { return s[:min(len(s), 64)] }
