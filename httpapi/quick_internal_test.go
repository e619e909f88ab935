// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"strings"
	"testing"
)

// TestQuickLookup: what is answered without net/http's server, and what is not.
func TestQuickLookup(t *testing.T) {
	q := &quick{paths: map[string]bool{"/registry/detail": true}}
	const line, host = "GET /registry/detail?name=a HTTP/1.1\r\n", "Host: h:1\r\n"
	for _, head := range []string{
		line + host + "\r\n",
		"GET /registry/detail HTTP/1.1\r\n" + host + "\r\n",
		"GET /registry/detail?name=%61;b+c# HTTP/1.1\r\n" + host + "\r\n",
		line + "Host: [::1]:8088\r\nUser-Agent: Go-http-client/1.1\r\nAccept-Encoding: gzip\r\n\r\n",
		line + "User-Agent: a b\r\nAccept: */*\r\nAccept-Language: de\r\n" + host + "Connection: keep-alive\r\n\r\n",
	} {
		if r := q.lookup([]byte(head)); r == nil || r.Method != "GET" || r.URL.Path != "/registry/detail" {
			t.Errorf("not quick: %q", head)
		}
	}
	for _, head := range []string{
		"", "\r\n", "\r\n\r\n", line, line + host, line + "\r\n", line + host + "\r", line + host + "\r\n\r\n",
		"\r\n" + line + host + "\r\n", line + host + "\r\n" + line + host + "\r\n", line + host + "\r\nx",
		strings.Replace(line, "GET", "HEAD", 1) + host + "\r\n", strings.Replace(line, "GET", "get", 1) + host + "\r\n",
		strings.Replace(line, "1.1", "1.0", 1) + host + "\r\n", strings.Replace(line, "\r\n", "\n", 1) + host + "\r\n",
		strings.Replace(line, "detail", "list", 1) + host + "\r\n", strings.Replace(line, "detail", "%64etail", 1) + host + "\r\n",
		strings.Replace(line, "detail?", "detail/?", 1) + host + "\r\n", strings.Replace(line, "/reg", "http://h/reg", 1) + host + "\r\n",
		strings.Replace(line, "=a", "=a b", 1) + host + "\r\n", strings.Replace(line, "=a", "=\x7f", 1) + host + "\r\n",
		strings.Replace(line, "=a", "=ä", 1) + host + "\r\n", line + host + host + "\r\n", line + "Host: \r\n\r\n", line + "Host:h\r\n\r\n",
		line + "Host: a/b\r\n\r\n", line + "Host: a b\r\n\r\n", line + "host: h\r\n\r\n", line + "Host : h\r\n\r\n",
		line + host + "Connection: close\r\n\r\n", line + host + "Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
		line + host + "Expect: 100-continue\r\n\r\n", line + host + "Content-Length: 0\r\n\r\n", line + host + "Transfer-Encoding: chunked\r\n\r\n",
		line + host + "Authorization: Bearer x\r\n\r\n", line + host + "X-Muster-Min-Index: 1\r\n\r\n", line + host + "Accept: a\r\n b\r\n\r\n",
		line + host + "Accept: a\nb\r\n\r\n", line + host + "Accept: a\tb\r\n\r\n", line + host + "Accept\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	} {
		if q.lookup([]byte(head)) != nil {
			t.Errorf("quick: %q", head)
		}
	}
}
