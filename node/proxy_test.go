// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"strings"
	"testing"
)

func TestProxyFrom(t *testing.T) {
	for from, want := range map[string]string{
		"10.0.3.1":                      "[10.0.3.1/32]",
		"10.0.3.0/24, 2001:db8::/64":    "[10.0.3.0/24 2001:db8::/64]",
		"::ffff:10.0.3.1":               "[10.0.3.1/32]",
		"2001:db8::1":                   "[2001:db8::1/128]",
		"0.0.0.0/0":                     "everybody",
		"::/0":                          "everybody",
		"10.0.3.1/24":                   "is 10.0.3.0/24 meant?",
		"::ffff:10.0.3.0/120":           "as one",
		"balancer.example.org":          "neither an IP address nor a network",
		"10.0.3.0/33":                   "neither an IP address nor a network",
		"":                              "neither an IP address nor a network",
		"10.0.3.1:6751":                 "neither an IP address nor a network",
		"10.0.3.0/24, 10.0.4.0/24, x/8": `"x/8" is neither`,
	} {
		c := ProxyConfig{Agent: true, From: strings.Split(from, ", ")}
		got, err := c.trusted()
		said := fmt.Sprint(got)
		if err != nil {
			said = err.Error()
		}
		if !strings.Contains(said, want) || (err == nil) != strings.HasPrefix(want, "[") {
			t.Errorf("%q: %s, want %s", from, said, want)
		}
		if valid := c.validate(); (valid == nil) != (err == nil) {
			t.Errorf("%q: %v, but %v", from, valid, err)
		}
	}
}
