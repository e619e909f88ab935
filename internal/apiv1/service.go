// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package apiv1

import "time"

// Service is an entry of service discovery, as the node that answers knows it.
type Service struct {
	Name       string         `json:"name"`
	IP         string         `json:"ip"`
	Port       int            `json:"port"`
	Status     string         `json:"status" enum:"green,blue,yellow,orange,red" description:"By its age: up to 45, 60, 75, 90 and 105 s; after that it is forgotten."`
	AgeSeconds int64          `json:"age_seconds" description:"Since it last registered; of a node, since its last load report."`
	Weight     int            `json:"weight" description:"Its connections: the fewest are named first."`
	Node       string         `json:"node,omitempty" description:"The node of this cluster that it is; absent for one that has registered itself."`
	Since      time.Time      `json:"since,omitzero" description:"When it first registered; of a node, when it started."`
	Extra      map[string]any `json:"extra,omitempty" description:"As it was registered."`
}

// ServiceQuery asks for services.
type ServiceQuery struct {
	PageQuery
	Name string `query:"name" maxLength:"64" description:"Those of this name alone, like hids_svr_grpc."`
}
