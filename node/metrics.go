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
		draining:    desc("draining", "1 once the node was asked to stop."),
		certificate: desc("certificate_end_timestamp_seconds", "When a certificate that the node uses ends (Unix time): of its CA, its agent and HTTPS listeners, and between the nodes.", "certificate"),
		memory:      desc("memory_limit_bytes", "Memory that the node may use: of the machine, or of its control group if that is less. 0 where the system does not tell."),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.info, c.ready, c.degraded, c.draining, c.certificate, c.memory} {
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
	gauge(c.draining, one(c.n.draining.Load()))
	gauge(c.memory, float64(memoryLimit()))
	for name, end := range c.n.trust.ends() {
		gauge(c.certificate, float64(end.Unix()), name)
	}
}
