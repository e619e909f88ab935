// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"muster/agentrpc"
	"muster/fleet"
	"muster/internal/agentpb"
	"muster/internal/grpccodec"
	"muster/internal/pki"
)

// asksForFile makes token t.1 a task of a1 of the given type.
func (w *world) asksForFile(dataType fleet.DataType) {
	w.store.set(func(f *fakeStore) {
		f.subTask = known("a1", fleet.SubTaskSent)
		f.task = func(id string) (fleet.Task, error) {
			return fleet.Task{NewTask: fleet.NewTask{ID: id, Command: fleet.AgentCommand{Task: &fleet.AgentTask{DataType: dataType, Name: fleet.AgentProduct}}}}, nil
		}
	})
}

// upload sends a file in chunks of 32 KiB.
func (w *world) upload(conn *grpc.ClientConn, token string, data []byte) (*agentpb.UploadResponse, error) {
	w.t.Helper()
	if conn == nil {
		conn = w.dial(nil)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	stream, err := agentpb.NewFileExtClient(conn).Upload(ctx, grpc.UseCompressor(grpccodec.Snappy))
	if err != nil {
		w.t.Fatal(err)
	}
	for len(data) > 0 {
		n := min(len(data), 32<<10)
		if err := stream.Send(&agentpb.UploadRequest{Token: token, Data: data[:n]}); err != nil {
			if errors.Is(err, io.EOF) {
				break // the answer is there already
			}
			w.t.Fatal(err)
		}
		data = data[n:]
	}
	return stream.CloseAndRecv()
}

// files are those that the upload directory holds.
func (w *world) files() []string {
	w.t.Helper()
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// lastResult waits for the one result of the test.
func (w *world) lastResult() fleet.TaskResult {
	w.t.Helper()
	w.eventually("result", time.Second, func() bool { return len(w.store.allResults()) == 1 })
	return w.store.allResults()[0]
}

func TestUpload(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.asksForFile(fleet.DataTypeAgentUpload)
		a := w.open("a1", nil)
		a.send(record(59))
		data := []byte(strings.Repeat("core dump ", 100_000))
		answer, err := w.upload(nil, "t.1", data)
		if err != nil || answer.GetStatus() != agentpb.UploadResponse_SUCCESS {
			t.Fatalf("upload = %v, %v", answer, err)
		}
		sum := sha256.Sum256(data)
		name := hex.EncodeToString(sum[:])
		if got := w.lastResult(); got.Token != "t.1" || got.AgentID != "a1" || got.State != fleet.SubTaskSucceeded || got.Message != name {
			t.Errorf("result %+v", got)
		}
		values := w.log.of("a1")
		reply, item := mqData(t, values[len(values)-1]), new(agentpb.Item)
		if err := proto.Unmarshal(reply.GetBody(), item); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"token": "t.1", "status": "succeed", "msg": name}
		if diff := cmp.Diff(want, item.GetFields()); diff != "" || reply.GetDataType() != 5100 || reply.GetHostname() != "host-a1" {
			t.Errorf("reply in the log %v: %s", reply, diff)
		}
		if got := w.files(); len(got) != 1 || got[0] != name {
			t.Fatalf("files %v, want %s", got, name)
		}
		stored, err := os.ReadFile(filepath.Join(w.dir, name))
		if err != nil || string(stored) != string(data) {
			t.Errorf("stored %d bytes, want %d: %v", len(stored), len(data), err)
		}
		if info, err := os.Stat(filepath.Join(w.dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
	})
}

func TestUploadsThatNobodyAskedFor(t *testing.T) {
	for name, token := range map[string]string{"path": "../../etc/passwd", "unknown": "t.zzz.", "empty": ""} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				w.asksForFile(fleet.DataTypeAgentUpload)
				w.expectFailed(w.upload(nil, token, []byte("x")))
			})
		})
	}
	t.Run("task of another type", func(t *testing.T) {
		inBubble(t, func(t *testing.T, w *world) {
			w.asksForFile(fleet.DataTypeScanPath)
			w.expectFailed(w.upload(nil, "t.1", []byte("x")))
		})
	})
	t.Run("has ended", func(t *testing.T) {
		inBubble(t, func(t *testing.T, w *world) {
			w.asksForFile(fleet.DataTypeAgentUpload)
			w.store.set(func(f *fakeStore) { f.subTask = known("a1", fleet.SubTaskCancelled) })
			w.expectFailed(w.upload(nil, "t.1", []byte("x")))
		})
	})
	t.Run("another agent's certificate", func(t *testing.T) {
		inBubble(t, func(t *testing.T, w *world) {
			w.asksForFile(fleet.DataTypeAgentUpload)
			own := w.clientTLS()
			own.Certificates = []tls.Certificate{*w.certificate(pki.AgentRequest(clusterID, "a2"))}
			w.expectFailed(w.upload(w.dial(own), "t.1", []byte("x")))
		})
	})
	t.Run("nothing sent", func(t *testing.T) {
		inBubble(t, func(t *testing.T, w *world) { w.expectFailed(w.upload(nil, "t.1", nil)) })
	})
}

// expectFailed expects FAILED, no file and no result.
func (w *world) expectFailed(answer *agentpb.UploadResponse, err error) {
	w.t.Helper()
	if err != nil || answer.GetStatus() != agentpb.UploadResponse_FAILED {
		w.t.Errorf("upload = %v, %v, want FAILED", answer, err)
	}
	if got := w.files(); len(got) != 0 {
		w.t.Errorf("files %v", got)
	}
	if n := w.metric("uploads_total", "outcome", "refused"); n != 1 {
		w.t.Errorf("refused: %v, want 1", n)
	}
	if got := w.store.allResults(); len(got) != 0 {
		w.t.Errorf("results %v", got)
	}
}

func TestUploadThatIsTooLarge(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.asksForFile(fleet.DataTypeAgentUpload)
		answer, err := w.upload(nil, "t.1", make([]byte, 100<<10+1))
		if err != nil || answer.GetStatus() != agentpb.UploadResponse_FAILED {
			t.Errorf("upload = %v, %v, want FAILED", answer, err)
		}
		if got := w.lastResult(); got.State != fleet.SubTaskFailed || got.Message != "the file is too large" {
			t.Errorf("result %+v", got)
		}
		if got := w.files(); len(got) != 0 {
			t.Errorf("files %v", got)
		}
		answer, err = w.upload(nil, "t.1", make([]byte, 100<<10))
		if err != nil || answer.GetStatus() != agentpb.UploadResponse_SUCCESS {
			t.Errorf("upload of the limit = %v, %v", answer, err)
		}
	}, func(o *agentrpc.Options) { o.Tuning.MaxUploadBytes = 100 << 10 })
}

func TestUploadThatStops(t *testing.T) {
	for name, stop := range map[string]func(w *world, cancel context.CancelFunc){
		"the agent stops sending": func(*world, context.CancelFunc) {},
		"the stream is cancelled": func(_ *world, cancel context.CancelFunc) { cancel() },
		"the node stops":          func(w *world, _ context.CancelFunc) { w.cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				w.asksForFile(fleet.DataTypeAgentUpload)
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				stream, err := agentpb.NewFileExtClient(w.dial(nil)).Upload(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if err := stream.Send(&agentpb.UploadRequest{Token: "t.1", Data: []byte("part")}); err != nil {
					t.Fatal(err)
				}
				w.eventually("part", time.Second, func() bool { return len(w.files()) == 1 })
				stop(w, cancel)
				w.eventually("result", 2*time.Minute, func() bool { return len(w.store.allResults()) == 1 })
				if got := w.lastResult(); got.State != fleet.SubTaskFailed {
					t.Errorf("result %+v", got)
				}
				if got := w.files(); len(got) != 0 {
					t.Errorf("files %v", got)
				}
			})
		})
	}
}

func TestUploadsAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.asksForFile(fleet.DataTypeAgentUpload)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		stream, err := agentpb.NewFileExtClient(w.dial(nil)).Upload(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&agentpb.UploadRequest{Token: "t.1", Data: []byte("part")}); err != nil {
			t.Fatal(err)
		}
		w.eventually("first", time.Second, func() bool { return len(w.files()) == 1 })
		if _, err := w.upload(nil, "t.1", []byte("x")); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("second upload: %v, want ResourceExhausted", err)
		}
		if _, err := stream.CloseAndRecv(); err != nil {
			t.Error(err)
		}
		if answer, err := w.upload(nil, "t.1", []byte("x")); err != nil || answer.GetStatus() != agentpb.UploadResponse_SUCCESS {
			t.Errorf("after the first has ended: %v, %v", answer, err)
		}
	}, func(o *agentrpc.Options) { o.Tuning.MaxUploads = 1 })
}

func TestLeftoversAreRemoved(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		if got := w.files(); len(got) != 0 {
			t.Errorf("left: %v", got)
		}
	}, func(o *agentrpc.Options) {
		if err := os.WriteFile(filepath.Join(o.UploadDir, "123.part"), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	})
}

func TestTokensOfLaterChunks(t *testing.T) {
	for name, c := range map[string]struct {
		second, third string
		want          agentpb.UploadResponse_Status
	}{
		"all the same":    {"t.1", "t.1", agentpb.UploadResponse_SUCCESS},
		"none later":      {"", "", agentpb.UploadResponse_SUCCESS},
		"another":         {"t.1", "t.2", agentpb.UploadResponse_FAILED},
		"another at once": {"t.2", "", agentpb.UploadResponse_FAILED},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				w.asksForFile(fleet.DataTypeAgentUpload)
				stream, err := agentpb.NewFileExtClient(w.dial(nil)).Upload(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				for _, token := range []string{"t.1", c.second, c.third} {
					err := stream.Send(&agentpb.UploadRequest{Token: token, Data: []byte("part")})
					if err != nil && !errors.Is(err, io.EOF) {
						t.Fatal(err)
					}
				}
				answer, err := stream.CloseAndRecv()
				if err != nil || answer.GetStatus() != c.want {
					t.Fatalf("upload = %v, %v, want %v", answer, err, c.want)
				}
				files, state := 1, fleet.SubTaskSucceeded
				if c.want == agentpb.UploadResponse_FAILED {
					files, state = 0, fleet.SubTaskFailed
				}
				if got := w.files(); len(got) != files {
					t.Errorf("files %v, want %d", got, files)
				}
				if got := w.lastResult(); got.Token != "t.1" || got.State != state {
					t.Errorf("result %+v, want %s of t.1", got, state)
				}
			})
		})
	}
}
