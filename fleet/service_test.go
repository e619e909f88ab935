// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package fleet_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/fleet"
)

func TestServiceStatusByAge(t *testing.T) {
	for _, tt := range []struct {
		seconds float64
		want    fleet.ServiceStatus
		kept    bool
	}{
		{-5, 0, true},
		{0, 0, true},
		{45, 0, true},
		{45.1, 1, true},
		{60, 1, true},
		{61, 2, true},
		{75, 2, true},
		{76, 3, true},
		{90, 3, true},
		{91, 4, true},
		{105, 4, true},
		{105.1, 4, false},
		{1e6, 4, false},
	} {
		got, kept := fleet.ServiceStatusAt(time.Duration(tt.seconds * float64(time.Second)))
		if got != tt.want || kept != tt.kept {
			t.Errorf("after %v s: %d, %v; want %d, %v", tt.seconds, got, kept, tt.want, tt.kept)
		}
	}
}

func TestServiceJSON(t *testing.T) {
	got, err := json.Marshal(fleet.Service{
		Name: "hids_svr_grpc", IP: "192.0.2.1", Port: 6751, Status: fleet.ServiceBlue,
		CreateAt: 1, UpdateAt: 2, Weight: 3, Extra: map[string]any{"k": "v"},
	})
	const want = `{"name":"hids_svr_grpc","ip":"192.0.2.1","port":6751,"status":1,"create_at":1,"update_at":2,"weight":3,"extra":{"k":"v"}}`
	if err != nil || string(got) != want {
		t.Errorf("got %s, %v\nwant %s", got, err, want)
	}
}

func TestServiceCheck(t *testing.T) {
	good := fleet.Service{Name: "hids_manage", IP: "192.0.2.1", Port: 80}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for field, change := range map[string]func(*fleet.Service){
		"name":   func(s *fleet.Service) { s.Name = "" },
		"name ":  func(s *fleet.Service) { s.Name = "a b" },
		"name  ": func(s *fleet.Service) { s.Name = strings.Repeat("a", 65) },
		"ip":     func(s *fleet.Service) { s.IP = "" },
		"ip ":    func(s *fleet.Service) { s.IP = "192.0.2.1\n" },
		"port":   func(s *fleet.Service) { s.Port = 0 },
		"port ":  func(s *fleet.Service) { s.Port = 65536 },
		"weight": func(s *fleet.Service) { s.Weight = -1 },
		"extra":  func(s *fleet.Service) { s.Extra = map[string]any{"a": strings.Repeat("x", 512)} },
		"extra ": func(s *fleet.Service) { s.Extra = map[string]any{"a": make(chan int)} },
	} {
		s := good
		change(&s)
		var refusal *fleet.Refusal
		if err := s.Check(); !errors.As(err, &refusal) || refusal.Field != strings.TrimSpace(field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestServicesOfAMember(t *testing.T) {
	m := node("a", 7)
	m.Started = time.Unix(1000, 0)
	m.AgentAddr, m.HTTPSAddr, m.HTTPAddr = "192.0.2.1:6751", "[2001:db8::1]:6752", "nonsense"
	got := fleet.ServicesOf(&m, rankNow)
	want := []fleet.Service{
		{Name: "hids_svr_grpc", IP: "192.0.2.1", Port: 6751, CreateAt: 1000, UpdateAt: rankNow.Unix() - 1, Weight: 7},
		{Name: "hids_svr_http", IP: "2001:db8::1", Port: 6752, CreateAt: 1000, UpdateAt: rankNow.Unix() - 1, Weight: 7},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, addr := range []string{"", ":1", "a:", "a:0", "a:65536", "a:b", "[]:1"} {
		m := fleet.Member{AgentAddr: addr}
		if got := fleet.ServicesOf(&m, rankNow); len(got) != 0 {
			t.Errorf("%q: %+v", addr, got)
		}
	}
}
