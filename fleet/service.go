// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// The names under which a node lists itself in service discovery.
const (
	ServiceAgents = "hids_svr_grpc" // what agents look for
	ServiceHTTP   = "hids_svr_http" // its HTTPS listener
	ServiceAPI    = "muster_api"    // its plain HTTP listener
)

// Limits of what a service may register.
const (
	MaxServiceNameBytes  = 64
	MaxServiceExtraBytes = 512 // as JSON
)

// ServiceStatus grades a service by the age of its last registration.
type ServiceStatus int

// The grades, as Elkeid numbers them.
const (
	ServiceGreen ServiceStatus = iota
	ServiceBlue
	ServiceYellow
	ServiceOrange
	ServiceRed
)

// ServiceEvictAge is the age of the last registration beyond which a service is
// forgotten. Services register each 30 s.
const ServiceEvictAge = 105 * time.Second

// ServiceStatusAt returns the grade for an age; the answer is false beyond
// ServiceEvictAge.
func ServiceStatusAt(age time.Duration) (ServiceStatus, bool) {
	switch {
	case age <= 45*time.Second:
		return ServiceGreen, true
	case age <= 60*time.Second:
		return ServiceBlue, true
	case age <= 75*time.Second:
		return ServiceYellow, true
	case age <= 90*time.Second:
		return ServiceOrange, true
	case age <= ServiceEvictAge:
		return ServiceRed, true
	}
	return ServiceRed, false
}

// Service is an entry of service discovery, in the JSON shape of Elkeid's.
type Service struct {
	Name     string         `json:"name"`
	IP       string         `json:"ip"`
	Port     int            `json:"port"`
	Status   ServiceStatus  `json:"status"`
	CreateAt int64          `json:"create_at"` // Unix seconds
	UpdateAt int64          `json:"update_at"` // Unix seconds
	Weight   int            `json:"weight"`    // connections
	Extra    map[string]any `json:"extra"`     // nil is none
}

// ServiceKey tells services apart.
type ServiceKey struct {
	Name, IP string
	Port     int
}

// Key returns what tells s apart from other services.
func (s Service) Key() ServiceKey { return ServiceKey{s.Name, s.IP, s.Port} }

// Check refuses a registration whose name, address, weight or extra cannot be
// kept.
func (s Service) Check() error {
	if err := s.Key().Check(); err != nil {
		return err
	}
	if s.Weight < 0 {
		return Invalid("weight", "%d is negative", s.Weight)
	}
	extra, err := json.Marshal(s.Extra)
	if err != nil {
		return Invalid("extra", "is not JSON: %v", err)
	}
	if len(extra) > MaxServiceExtraBytes {
		return Invalid("extra", "is %d bytes as JSON, at most %d are kept", len(extra), MaxServiceExtraBytes)
	}
	return nil
}

// Check refuses a name, IP or port that no service can have.
func (k ServiceKey) Check() error {
	for _, field := range []struct{ name, value string }{{"name", k.Name}, {"ip", k.IP}} {
		if field.value == "" {
			return Invalid(field.name, "is empty")
		}
		if len(field.value) > MaxServiceNameBytes {
			return Invalid(field.name, "is %d bytes long, at most %d are accepted", len(field.value), MaxServiceNameBytes)
		}
		if strings.ContainsFunc(field.value, notInServiceName) {
			return Invalid(field.name, "may hold letters, digits and any of -_.: only")
		}
	}
	if k.Port < 1 || k.Port > 65535 {
		return Invalid("port", "%d is not between 1 and 65535", k.Port)
	}
	return nil
}

func notInServiceName(c rune) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		return false
	}
	return !strings.ContainsRune("-_.:", c)
}

// ServicesOf returns what a member is to service discovery. A listener that it
// does not have, or whose address is no HOST:PORT, is left out.
func ServicesOf(m *Member, now time.Time) []Service {
	services := make([]Service, 0, 3)
	for _, name := range []string{ServiceAgents, ServiceHTTP, ServiceAPI} {
		if s, ok := ServiceOf(m, name, now); ok {
			services = append(services, s)
		}
	}
	return services
}

// ServiceOf returns what a member is to service discovery under one name. It is
// false for a listener that ServicesOf leaves out, and for other names. Extra is
// nil.
func ServiceOf(m *Member, name string, now time.Time) (Service, bool) {
	var addr string
	switch name {
	case ServiceAgents:
		addr = m.AgentAddr
	case ServiceHTTP:
		addr = m.HTTPSAddr
	case ServiceAPI:
		addr = m.HTTPAddr
	}
	host, port, ok := splitAddr(addr)
	if !ok {
		return Service{}, false
	}
	updated := m.ReportedAt
	if updated.IsZero() {
		updated = m.Started
	}
	status, _ := ServiceStatusAt(now.Sub(updated))
	return Service{
		Name: name, IP: host, Port: port, Status: status,
		CreateAt: m.Started.Unix(), UpdateAt: updated.Unix(), Weight: int(m.Load.Sessions),
	}, true
}

// splitAddr takes HOST:PORT or [IPv6]:PORT apart.
func splitAddr(addr string) (host string, port int, ok bool) {
	i := strings.LastIndexByte(addr, ':')
	if i <= 0 {
		return "", 0, false
	}
	host = addr[:i]
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	}
	number, err := strconv.ParseUint(addr[i+1:], 10, 16)
	return host, int(number), err == nil && number > 0 && host != ""
}
