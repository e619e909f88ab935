// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"muster/internal/aksk"
	"muster/internal/apiv1"
	"muster/test/process"
)

// TestProcessOtherServices registers a service with one process, kills that one,
// and asks the others; it is back on the one that was killed, and evicted on all
// through another.
func TestProcessOtherServices(t *testing.T) {
	c := process.NewCluster(t, 3, process.ClusterOptions{})
	c.Form()
	var key apiv1.CreatedKey
	if err := c.Nodes[0].API(c.Token(), 10*time.Second).Do(t.Context(), "POST", "/v1/keys", apiv1.NewKey{Scope: "sd"}, &key); err != nil {
		t.Fatal(err)
	}
	tell := func(n *process.Node, path string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, n.SD+path, strings.NewReader(`{"name":"rule_engine","ip":"192.0.2.7","port":9000}`))
		if err != nil {
			t.Fatal(err)
		}
		if err := aksk.SignRequest(req, key.AccessKey, key.SecretKey, time.Now()); err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Fatalf("%s on %s: %s", path, n.Name, res.Status)
		}
	}
	lists := func(want int, nodes ...*process.Node) {
		t.Helper()
		process.Eventually(t, 20*time.Second, fmt.Sprintf("%d services", want), func() error {
			for _, n := range nodes {
				_, body, err := n.Try("GET", "/registry/detail?name=rule_engine", "", "")
				if err != nil {
					return err
				}
				if strings.Count(string(body), `"ip":"192.0.2.7","port":9000,"status":0`) != want {
					return fmt.Errorf("%s lists %s", n.Name, body)
				}
			}
			return nil
		})
	}
	one, two, three := c.Nodes[0], c.Nodes[1], c.Nodes[2]
	tell(one, "/registry/register")
	lists(1, one, two, three)
	one.Kill()
	lists(1, two, three)
	one.Start()
	tell(two, "/registry/register")
	lists(1, one, two, three)
	tell(three, "/registry/evict")
	lists(0, one, two, three)
}
