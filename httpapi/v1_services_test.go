// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"muster/fleet"
)

func TestV1Services(t *testing.T) {
	w := newV1World(t)
	q := request{as: fleet.RoleViewer}
	w.dir.services = []fleet.Service{
		{Name: "leader", IP: "192.0.2.9", Port: 80, Status: fleet.ServiceOrange, CreateAt: start.Unix() - 600, UpdateAt: start.Unix() - 80, Weight: 7, Extra: map[string]any{"rack": "r1"}},
		{Name: fleet.ServiceAgents, IP: "192.0.2.1", Port: 6751, UpdateAt: start.Unix() + 5}, // in a node's place, and of a clock ahead
	}
	w.dir.members = append(w.dir.members, fleet.Member{NodeID: "n2", AgentAddr: "192.0.2.2:6751", Started: start})
	w.pass(50 * time.Second)
	w.golden("v1_services", w.do("GET /v1/services", q))
	all := w.v1("GET /v1/services", q, 200)
	names := fmt.Sprint(items(all, "name"))
	equal(t, "names", "[hids_svr_grpc hids_svr_grpc hids_svr_http leader muster_api]", names)
	equal(t, "one name", []any{"leader"}, items(w.v1("GET /v1/services?name=leader", q, 200), "name"))
	equal(t, "no such name", []any{}, items(w.v1("GET /v1/services?name=x", q, 200), "name"))

	var paged []any
	for after := ""; ; {
		page := w.v1("GET /v1/services?limit=1&after="+url.QueryEscape(after), q, 200)
		paged = append(paged, items(page, "name")...)
		next, more := page["next"].(string)
		if !more {
			break
		}
		after = next
	}
	equal(t, "page by page", names, fmt.Sprint(paged))

	w.v1("GET /v1/services?name=", q, 400)
	w.v1("GET /v1/services?nme=x", q, 400)
	w.v1("GET /v1/services?name="+strings.Repeat("x", 65), q, 400)
	w.v1("GET /v1/services", request{}, 401)
}
