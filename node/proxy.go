// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"muster/fleet"
	"muster/internal/proxyproto"
	"muster/internal/rarelog"
)

// ProxyConfig says on which ports balancers say who is behind them, and which
// balancers are believed.
type ProxyConfig struct {
	Agent bool     `name:"agent-proxy-protocol" help:"Balancers send a PROXY protocol header (version 2) to --agent-addr; needs --proxy-from."`
	SD    bool     `name:"sd-proxy-protocol" help:"The same on --sd-addr."`
	From  []string `name:"proxy-from" placeholder:"CIDR,..." help:"Balancers: a connection from there must begin with that header, which is believed; one from elsewhere is taken as it is."`
}

func (p *ProxyConfig) validate() error {
	trusted, err := p.trusted()
	switch {
	case err != nil:
		return err
	case (p.Agent || p.SD) && len(trusted) == 0:
		flag := "--agent-proxy-protocol"
		if !p.Agent {
			flag = "--sd-proxy-protocol"
		}
		return fleet.Invalid(flag, "needs --proxy-from with the addresses of the balancers, as in 192.0.2.10,10.0.3.0/24")
	case !p.Agent && !p.SD && len(trusted) > 0:
		return fleet.Invalid("--proxy-from", "does nothing without --agent-proxy-protocol or --sd-proxy-protocol")
	}
	return nil
}

// trusted are the networks of the balancers.
func (p *ProxyConfig) trusted() (all []netip.Prefix, err error) {
	for _, text := range p.From {
		network := text
		if ip, err := netip.ParseAddr(text); err == nil {
			network = netip.PrefixFrom(ip.Unmap(), ip.Unmap().BitLen()).String()
		}
		prefix, err := netip.ParsePrefix(network)
		switch {
		case err != nil:
			return nil, fleet.Invalid("--proxy-from", "%q is neither an IP address nor a network like 10.0.3.0/24", text)
		case prefix.Addr().Is4In6():
			return nil, fleet.Invalid("--proxy-from", "%q: write an IPv4 network as one", text)
		case prefix.Bits() == 0:
			return nil, fleet.Invalid("--proxy-from", "%q is everybody, who could then claim any address: name the balancers", text)
		case prefix != prefix.Masked():
			return nil, fleet.Invalid("--proxy-from", "%q has bits set behind its mask: is %s meant?", text, prefix.Masked())
		}
		all = append(all, prefix)
	}
	return all, nil
}

// behindProxies puts the readers of headers in front of the sockets that have
// them. Where the flags are off nothing changes.
func (n *Node) behindProxies() error {
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "muster_node_proxy_headers_refused_total",
		Help: "Connections of balancers (--proxy-from) closed because no good PROXY protocol header of version 2 came first, by listener.",
	}, []string{"listener"})
	if err := n.metrics.Register(refused); err != nil {
		return err
	}
	refused.WithLabelValues("agent")
	refused.WithLabelValues("sd")
	p := &n.cfg.Proxy
	if !p.Agent && !p.SD {
		return nil
	}
	trusted, err := p.trusted()
	if err != nil {
		return err
	}
	logs := rarelog.New(n.log, time.Second)
	behind := func(name string, l net.Listener, closeLocal bool) net.Listener {
		note := func(balancer net.Addr, err error) {
			refused.WithLabelValues(name).Inc()
			logs.WarnOf("connection of a balancer refused", name, "listener", name, "balancer", balancer.String(), "error", err)
		}
		return proxyproto.Listen(l, proxyproto.Options{Trusted: trusted, CloseLocal: closeLocal, Refused: note})
	}
	if p.Agent { // a health check has no certificate: it gets no further than the connection
		n.sockets.agent = behind("agent", n.sockets.agent, true)
	}
	if p.SD {
		for i, l := range n.sockets.sd {
			n.sockets.sd[i] = behind("sd", l, false)
		}
	}
	n.log.Info("balancers are believed to say who is behind them", "agent", p.Agent, "sd", p.SD, "from", strings.Join(p.From, ","))
	return nil
}
