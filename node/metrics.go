// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"github.com/prometheus/client_golang/prometheus"
)

// collector shows what the node as a whole knows of itself, judged at each scrape.
type collector struct {
	n *Node

	info, ready, degraded, draining *prometheus.Desc
	certificate, memory             *prometheus.Desc
	shareRatio, shedding, paused    *prometheus.Desc
}

func newCollector(n *Node) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("muster_node_"+name, help, labels, nil)
	}
	return &collector{
		n:           n,
		info:        desc("info", "1; the version is in the label.", "version"),
		ready:       desc("ready", "1 while /readyz answers 200."),
		degraded:    desc("degraded_reasons", "How many reasons /readyz gives why a ready node is degraded."),
		draining:    desc("draining", "1 while an operator wants the node empty, and once it was asked to stop."),
		shareRatio:  desc("share_ratio", "The node's agents over its fair share of the fleet's; 1 is as it should be, 0 says that it should have none."),
		shedding:    desc("shedding", "1 while the node sends agents to other ones."),
		paused:      desc("shed_paused", "1 while agents should be sent to other nodes but are not; the log says why."),
		certificate: desc("certificate_end_timestamp_seconds", "When a certificate that the node uses ends (Unix time): of its CA, its agent and HTTPS listeners, and between the nodes.", "certificate"),
		memory:      desc("memory_limit_bytes", "Memory that the node may use: of the machine, or of its control group if that is less. 0 where the system does not tell."),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.info, c.ready, c.degraded, c.draining, c.certificate, c.memory, c.shareRatio, c.shedding, c.paused} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	one := func(yes bool) float64 {
		if yes {
			return 1
		}
		return 0
	}
	h := c.n.health()
	gauge(c.info, 1, c.n.env.Build.Version)
	gauge(c.ready, one(h.Ready))
	gauge(c.degraded, float64(len(h.Degraded)))
	gauge(c.draining, one(c.n.draining.Load() || c.n.shedding.drained.Load()))
	step := c.n.shedding.step()
	gauge(c.shareRatio, step.Ratio)
	gauge(c.shedding, one(step.Shedding))
	gauge(c.paused, one(step.Waits != ""))
	gauge(c.memory, float64(memoryLimit()))
	for name, end := range c.n.trust.ends() {
		gauge(c.certificate, float64(end.Unix()), name)
	}
}
