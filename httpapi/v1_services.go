// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"time"

	"muster/fleet"
	"muster/internal/apiv1"
)

func (a *API) v1ServiceRoutes() []Route {
	return []Route{{
		Method: http.MethodGet, Path: "/v1/services", Access: permit(fleet.PermFleetRead), handle: a.v1Services,
		Summary: "What service discovery knows, by name and address: the live nodes' own listeners, and what has registered.",
		Query:   apiv1.ServiceQuery{}, Response: apiv1.Page[apiv1.Service]{},
	}}
}

func (a *API) v1Services(w http.ResponseWriter, r *http.Request, _ *call) error {
	values, err := listQuery(r, "name")
	if err != nil {
		return err
	}
	limit, after, err := limitAfter(values)
	if err != nil {
		return err
	}
	name := values.Get("name")
	switch {
	case values.Has("name") && name == "":
		return fleet.Invalid("name", "is empty: leave it out for all services")
	case len(name) > fleet.MaxServiceNameBytes:
		return fleet.Invalid("name", "is %d bytes long, no service's is longer than %d", len(name), fleet.MaxServiceNameBytes)
	}
	return respond(w, http.StatusOK, keyPageFrom(a.listServices(name), limit, after, serviceKey))
}

// serviceKey orders services by name and address. A node comes before a service
// that has registered in its place.
func serviceKey(s apiv1.Service) string {
	kind := 1
	if s.Node != "" {
		kind = 0
	}
	return fmt.Sprintf("%s/%s/%05d/%d", s.Name, s.IP, s.Port, kind)
}

// listServices are those of a name, or all, in the order of serviceKey.
func (a *API) listServices(name string) []apiv1.Service {
	now := a.opts.Now()
	var all []apiv1.Service
	for _, m := range a.alive() {
		for _, s := range fleet.ServicesOf(m, now) {
			if name == "" || s.Name == name {
				all = append(all, showService(s, m.NodeID, now))
			}
		}
	}
	for _, s := range a.opts.Directory.Services.Services(name) {
		all = append(all, showService(s, "", now))
	}
	slices.SortFunc(all, func(x, y apiv1.Service) int { return cmp.Compare(serviceKey(x), serviceKey(y)) })
	return all
}

func showService(s fleet.Service, node string, now time.Time) apiv1.Service {
	return apiv1.Service{
		Name: s.Name, IP: s.IP, Port: s.Port, Status: statusColour(s.Status), AgeSeconds: max(0, now.Unix()-s.UpdateAt),
		Weight: s.Weight, Node: node, Since: at(s.CreateAt), Extra: s.Extra,
	}
}

// statusColour is fleet's name of a grade.
func statusColour(s fleet.ServiceStatus) string {
	switch s {
	case fleet.ServiceGreen:
		return "green"
	case fleet.ServiceBlue:
		return "blue"
	case fleet.ServiceYellow:
		return "yellow"
	case fleet.ServiceOrange:
		return "orange"
	case fleet.ServiceRed:
	}
	return "red"
}
