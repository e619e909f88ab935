// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"net/url"
	"strconv"
	"time"

	"muster/internal/apiv1"
)

// serviceCmd is `muster service`.
type serviceCmd struct {
	clientFlags
	List serviceListCmd `cmd:"" help:"List what service discovery names: the nodes' own listeners, and what has registered."`
}

type serviceListCmd struct {
	listFlags
	Name string `help:"Only those of this name, like hids_svr_grpc." placeholder:"NAME"`
}

// Run lists services.
func (c *serviceListCmd) Run(a *app) error {
	query := url.Values{}
	if c.Name != "" {
		query.Set("name", c.Name)
	}
	services, err := list[apiv1.Service](a, "/v1/services", query, c.Limit)
	if err != nil {
		return err
	}
	t := &table{head: []string{"NAME", "ADDRESS", "STATUS", "WEIGHT", "RENEWED", "SINCE", "NODE"}}
	for _, s := range services {
		t.add(s.Name, net.JoinHostPort(s.IP, strconv.Itoa(s.Port)), s.Status, count(s.Weight),
			duration(time.Duration(s.AgeSeconds)*time.Second)+" ago", a.age(s.Since), dash(s.Node))
	}
	return a.show(services, t)
}
