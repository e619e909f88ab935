// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package rarelog_test

import (
	"bytes"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"muster/internal/rarelog"
)

func newLogger(every time.Duration) (*rarelog.Logger, *bytes.Buffer) {
	var out bytes.Buffer
	return rarelog.New(slog.New(slog.NewTextHandler(&out, nil)), every), &out
}

func TestOneLineOfAKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, out := newLogger(time.Second)
		for range 3 {
			for range 10 {
				l.Warn("anything")
				l.WarnOf("of a", "a")
			}
			time.Sleep(time.Second)
		}
		l.Warn("anything")
		text := out.String()
		for want, n := range map[string]int{"msg=anything": 4, "msg=\"of a\"": 3, "lines_omitted=9": 5} {
			if got := strings.Count(text, want); got != n {
				t.Errorf("%q stands %d times there, not %d:\n%s", want, got, n, text)
			}
		}
	})
}

func TestKindsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, out := newLogger(time.Minute)
		for i := range 1000 {
			l.WarnOf("of many", strconv.Itoa(i))
		}
		if n := strings.Count(out.String(), "of many"); n != 256 {
			t.Errorf("%d lines, not 256", n)
		}
		out.Reset()
		time.Sleep(time.Minute)
		l.WarnOf("of many", "new")
		if n := strings.Count(out.String(), "of many"); n != 1 {
			t.Error("the old kinds are not forgotten")
		}
	})
}
