// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package simagent_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"muster/internal/agentpb"
	"muster/internal/simagent"
)

// taken is what an upload brought; read it after synctest.Wait.
type taken struct {
	times  []time.Time
	sizes  []int
	tokens []string
	data   bytes.Buffer
}

func (u *taken) take(s agentpb.FileExt_UploadServer) error {
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return s.SendAndClose(&agentpb.UploadResponse{Status: agentpb.UploadResponse_SUCCESS})
		}
		if err != nil {
			return err
		}
		u.times = append(u.times, time.Now())
		u.sizes = append(u.sizes, len(r.GetData()))
		u.tokens = append(u.tokens, r.GetToken())
		u.data.Write(r.GetData())
	}
}

// TestUploadChunks: one chunk a second with the task's token, and no reply record.
func TestUploadChunks(t *testing.T) {
	dir := t.TempDir()
	content := bytes.Repeat([]byte("0123456789"), 250)
	if err := os.WriteFile(filepath.Join(dir, "log"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		u := &taken{}
		s := newWorld(t).commanded(func(o *simagent.Options) { o.FilesDir = dir })
		s.c.upload = u.take
		start := time.Now()
		s.tell(task(1050, simagent.Product, `{"path":"/log","buf_size":1000}`))
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if !bytes.Equal(u.data.Bytes(), content) {
			t.Fatalf("%d bytes came, want %d", u.data.Len(), len(content))
		}
		if len(u.times) != 3 || u.sizes[0] != 1000 || u.sizes[2] != 500 {
			t.Fatalf("chunks of %v", u.sizes)
		}
		for i, at := range u.times {
			if at.Sub(start) != time.Duration(i+1)*time.Second || u.tokens[i] != "token-1" {
				t.Errorf("chunk %d after %v with token %q", i, at.Sub(start), u.tokens[i])
			}
		}
		if got := s.Summary().Commands; got.Uploads != 1 || got.UploadsFailed != 0 || len(s.c.records(5100)) != 0 {
			t.Errorf("commands %+v, %d replies", got, len(s.c.records(5100)))
		}
	})
}

// TestUploadFailures: each is a 5100 record with the token.
func TestUploadFailures(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, 601), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		data, msg string
		upload    func(agentpb.FileExt_UploadServer) error
	}{
		"no JSON":         {`x`, "read upload task", nil},
		"no such file":    {`{"path":"/none","buf_size":10}`, "open /none", nil},
		"outside the dir": {`{"path":"../../etc/passwd","buf_size":10}`, "open ../../etc/passwd", nil},
		"too big":         {`{"path":"/big","buf_size":1}`, "at most 600", nil},
		"server refuses": {`{"path":"/big","buf_size":1000}`, "token unknown", func(agentpb.FileExt_UploadServer) error {
			return status.Error(codes.NotFound, "token unknown")
		}},
		"server says FAILED": {`{"path":"/big","buf_size":1000}`, "FAILED", func(s agentpb.FileExt_UploadServer) error {
			return s.SendAndClose(&agentpb.UploadResponse{Status: agentpb.UploadResponse_FAILED})
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newWorld(t).commanded(func(o *simagent.Options) { o.FilesDir = dir })
				s.c.upload = tt.upload
				s.tell(task(1050, simagent.Product, tt.data))
				time.Sleep(3 * time.Second)
				synctest.Wait()
				replies := s.c.records(5100)
				if len(replies) != 1 {
					t.Fatalf("%d replies", len(replies))
				}
				got := fields(t, replies[0])
				if got["token"] != "token-1" || got["status"] != "failed" || !strings.Contains(got["msg"], tt.msg) {
					t.Errorf("reply %v, want %q in msg", got, tt.msg)
				}
				if n := s.Summary().Commands.UploadsFailed; n != 1 {
					t.Errorf("%d uploads failed", n)
				}
			})
		})
	}
}

// TestOneUploadAtATime: a second one fails at once, the first goes on.
func TestOneUploadAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &taken{}
		s := newWorld(t).commanded(nil)
		s.c.upload = u.take
		s.tell(task(1050, simagent.Product, `{"path":"/a","buf_size":3000}`))
		s.tell(task(1050, simagent.Product, `{"path":"/b","buf_size":3000}`))
		if replies := s.c.records(5100); len(replies) != 1 {
			t.Fatalf("%d replies", len(replies))
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if u.data.Len() != simagent.SyntheticFileBytes {
			t.Errorf("%d bytes came", u.data.Len())
		}
	})
}

// TestFinishWaitsForTheUpload: an agent with nothing left to send stays for it.
func TestFinishWaitsForTheUpload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &taken{}
		s := newWorld(t).commanded(func(o *simagent.Options) { o.Load.Duration = 3 * time.Second })
		s.c.upload = u.take
		s.tell(task(1050, simagent.Product, `{"path":"/a","buf_size":2000}`))
		if err := s.wait(); err != nil {
			t.Fatal(err)
		}
		if u.data.Len() != simagent.SyntheticFileBytes || s.Summary().Agents.Finished != 1 {
			t.Errorf("%d bytes came; summary:\n%v", u.data.Len(), s.Summary())
		}
	})
}
