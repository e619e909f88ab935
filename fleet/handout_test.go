// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package fleet_test

import (
	"sync"
	"testing"
	"time"

	"muster/fleet"
)

func TestHandOutsWearOffWithReports(t *testing.T) {
	at := func(ms int) time.Time { return rankNow.Add(time.Duration(ms) * time.Millisecond) }
	var h fleet.HandOuts
	for range 160 {
		h.Add(at(0))
	}
	for _, tt := range []struct {
		report int // ms
		want   float64
	}{{10, 160}, {500, 120}, {1000, 80}, {1500, 40}, {1500, 40}, {2000, 0}, {1 << 40, 0}} {
		h.Reported(at(tt.report))
		if got := h.Outstanding(); got != tt.want {
			t.Errorf("%v are on their way after a report of %d ms later, want %v", got, tt.report, tt.want)
		}
	}
	h.Add(at(5000))
	if got := h.Outstanding(); got != 1 {
		t.Errorf("one was sent, %v are on their way", got)
	}
	h.Reported(at(4000)) // a clock that was set back
	if got := h.Outstanding(); got > 1 {
		t.Errorf("one was sent, %v are on their way", got)
	}
}

func TestHandOutsOfManyAtOnce(t *testing.T) {
	var h fleet.HandOuts
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for range 1000 {
				h.Add(rankNow.Add(time.Duration(i%2) * time.Second))
			}
		})
	}
	group.Wait()
	if got := h.Outstanding(); got != 8000 {
		t.Errorf("%v of 8000", got)
	}
	if h.Reported(rankNow.Add(time.Second)); h.Outstanding() != 6000 {
		t.Errorf("%v of 8000 after a report, want 4000 and half of the others", h.Outstanding())
	}
}

func TestAskers(t *testing.T) {
	five := func(handedOut ...uint32) []fleet.Member {
		members := []fleet.Member{node("a", 1), node("b", 1), node("c", 1), node("d", 1), node("e", 1), node("gone", 1, dead)}
		for i, n := range handedOut {
			members[i].Load.HandedOut = n
		}
		members[5].Load.HandedOut = 1e6
		return members
	}
	for name, tt := range map[string]struct {
		members     []fleet.Member
		own         []uint32
		least, most float64
	}{
		"nothing is known":                   {five(), nil, 5, 5},
		"nobody asks":                        {five(), []uint32{0, 0, 0}, 5, 5},
		"all are asked":                      {five(0, 1000, 1000, 1000, 1000), []uint32{1000, 1000, 1000}, 5, 5},
		"this one is asked alone":            {five(), []uint32{1500, 1500, 1500}, 1, 1.1},
		"it has been for a moment":           {five(), []uint32{0, 1500, 1500}, 5, 5},
		"another one is asked, too":          {five(0, 1000), []uint32{1000, 1000, 1000}, 2, 2.1},
		"others are asked more":              {five(0, 9000, 9000, 9000, 9000), []uint32{10, 10, 10}, 5, 5},
		"a lone agent says little":           {five(), []uint32{1, 1, 1}, 4.5, 5},
		"alone":                              {[]fleet.Member{node("a", 1)}, []uint32{9, 9, 9}, 1, 1},
		"those that are not known to it yet": {nil, nil, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			var a fleet.Askers
			for _, n := range tt.own {
				a.Reported(n)
			}
			if got := a.Count(tt.members, "a"); got < tt.least || got > tt.most {
				t.Errorf("%v askers, want %v to %v", got, tt.least, tt.most)
			}
		})
	}
}
