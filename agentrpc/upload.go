// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"muster/fleet"
	"muster/internal/agentpb"
)

const (
	// uploadIdle ends an upload whose agent sends nothing; a stock agent sends a
	// chunk each second.
	uploadIdle = time.Minute
	// uploadTotal ends an upload however slowly it goes on.
	uploadTotal = 4 * time.Hour
	// partSuffix ends the names of unfinished files; stored ones have no dot.
	partSuffix = ".part"
)

// uploads bounds how many files are taken at once.
type uploads struct {
	slots chan struct{}
}

// upload takes one file from an agent that was asked for it. It answers FAILED
// for what the agent can do nothing about, a status for what it must not do.
func (s *Server) upload(_ any, stream grpc.ServerStream) error {
	if s.draining() {
		return s.refuse(reasonDraining, codes.Unavailable, "this node is stopping")
	}
	peer, err := s.identify(stream.Context())
	if err != nil {
		return err
	}
	peer.conn.uploads.Add(1)
	defer peer.conn.uploads.Add(-1)
	select {
	case s.parts.uploads.slots <- struct{}{}:
		defer func() { <-s.parts.uploads.slots }()
	default:
		s.countUpload("refused")
		return status.Error(codes.ResourceExhausted, "this node takes as many files as it may")
	}
	// A reader of its own: only the return of the handler ends a receive.
	chunks := make(chan uploadChunk)
	gone := make(chan struct{})
	defer close(gone)
	s.receivers.Go(func() { receiveChunks(stream, chunks, gone) })

	in := &uploadReader{chunks: chunks, drain: s.drain, ctx: stream.Context(), until: time.Now().Add(uploadTotal)}
	sub, err := s.takeUpload(in, peer)
	if sub.Token == "" && err != nil { // no task: nobody to tell
		s.countUpload("refused")
		s.agentLogs.Warn("upload refused", "remote", peer.addr, "error", err)
		return stream.SendMsg(&agentpb.UploadResponse{Status: agentpb.UploadResponse_FAILED})
	}
	result := fleet.TaskResult{Token: sub.Token, AgentID: sub.AgentID, At: s.now(), State: fleet.SubTaskSucceeded, Message: in.name}
	answer := agentpb.UploadResponse_SUCCESS
	if err != nil {
		s.logs.Warn("upload failed", "agent_id", sub.AgentID, "error", err)
		answer = agentpb.UploadResponse_FAILED
		result.State, result.Message = fleet.SubTaskFailed, uploadFault(err)
		s.countUpload("failed")
	} else {
		s.countUpload("stored")
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(stream.Context()), reportWait)
	defer cancel()
	if !s.parts.results.add(ctx, result) {
		s.metrics.results.WithLabelValues("lost").Inc()
	}
	s.announce(ctx, result)
	return stream.SendMsg(&agentpb.UploadResponse{Status: answer})
}

// announce writes the outcome of an upload to the record log as if the agent
// had replied, for those who read replies there. It needs the agent's session.
func (s *Server) announce(ctx context.Context, r fleet.TaskResult) {
	sess := s.registry.get(r.AgentID)
	if sess == nil {
		return
	}
	said := statusSucceed
	if r.State != fleet.SubTaskSucceeded {
		said = statusFailed
	}
	var body []byte
	for _, pair := range [][2]string{{"token", r.Token}, {"status", said}, {"msg", r.Message}} {
		body = appendEntry(body, pair[0], pair[1])
	}
	sess.mu.Lock()
	m := message{identity: sess.obs.identity} // replaced, never changed
	sess.mu.Unlock()
	record := encodeRecord(int32(fleet.DataTypeTaskResult), r.At, body)
	if err := m.stamp(r.At, *sess.tags.Load()); err != nil {
		return // never: it is one record
	}
	if err := s.opts.Log.Append(ctx, r.AgentID, [][]byte{record}, m.suffix); err != nil {
		s.logs.Warn("record log does not take the outcome of an upload", "agent_id", r.AgentID, "error", err)
	}
}

func (s *Server) countUpload(outcome string) { s.metrics.uploads.WithLabelValues(outcome).Inc() }

// takeUpload finds the task by the token of the first chunk and stores the file.
// A sub-task without a token means that there is no such task.
func (s *Server) takeUpload(in *uploadReader, peer peerInfo) (fleet.SubTask, error) {
	first, err := in.chunk()
	if err != nil {
		return fleet.SubTask{}, fmt.Errorf("receive first chunk: %w", err)
	}
	sub, err := s.uploadTask(first.GetToken(), peer)
	if err != nil {
		return fleet.SubTask{}, err
	}
	in.token, in.rest = first.GetToken(), first.GetData()
	in.name, err = s.store(in)
	return sub, err
}

// uploadTask checks that the token belongs to a task that asks this agent for a
// file and has not ended.
func (s *Server) uploadTask(token string, peer peerInfo) (fleet.SubTask, error) {
	sub, err := s.opts.Lookup.SubTaskByToken(token)
	if err != nil {
		return fleet.SubTask{}, fmt.Errorf("find sub-task of upload: %w", err)
	}
	if !peer.fleetWide && peer.agentID != sub.AgentID {
		return fleet.SubTask{}, fmt.Errorf("the task asks another agent: %w", fleet.ErrForbidden)
	}
	if sub.State.Ended() && sub.State != fleet.SubTaskUnknown {
		return fleet.SubTask{}, fmt.Errorf("the task has ended: %w", fleet.ErrConflict)
	}
	task, err := s.opts.Lookup.Task(sub.TaskID)
	if err != nil {
		return fleet.SubTask{}, fmt.Errorf("find task of upload: %w", err)
	}
	if task.Command.Task == nil || task.Command.Task.DataType != fleet.DataTypeAgentUpload {
		return fleet.SubTask{}, fmt.Errorf("the task asks for no file: %w", fleet.ErrConflict)
	}
	sub.Token = token
	return sub, nil
}

// store writes the file under the SHA-256 of its content and returns that name.
// Once it returns, the file survives a power loss.
func (s *Server) store(in io.Reader) (name string, err error) {
	f, err := os.CreateTemp(s.opts.UploadDir, "*"+partSuffix) // mode 0600
	if err != nil {
		return "", fmt.Errorf("create file: %w", err)
	}
	defer func() {
		if err != nil { // after the renaming there is nothing to remove
			if gone := os.Remove(f.Name()); !errors.Is(gone, os.ErrNotExist) {
				err = errors.Join(err, gone)
			}
		}
	}()
	sum := sha256.New()
	limit := s.opts.Tuning.MaxUploadBytes
	n, err := io.Copy(io.MultiWriter(f, sum), io.LimitReader(in, limit+1))
	if err == nil && n > limit {
		err = fmt.Errorf("the file is larger than %d bytes: %w", limit, fleet.ErrTooLarge)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("write file: %w", err)
	}
	name = hex.EncodeToString(sum.Sum(nil))
	if err := os.Rename(f.Name(), filepath.Join(s.opts.UploadDir, name)); err != nil {
		return "", fmt.Errorf("name file: %w", err)
	}
	return name, syncDir(s.opts.UploadDir)
}

// removeLeftovers deletes what a killed process had not finished.
func (s *Server) removeLeftovers() error {
	entries, err := os.ReadDir(s.opts.UploadDir)
	if err != nil {
		return fmt.Errorf("list uploads: %w", err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), partSuffix) {
			continue
		}
		if err := os.Remove(filepath.Join(s.opts.UploadDir, e.Name())); err != nil {
			return fmt.Errorf("remove unfinished upload: %w", err)
		}
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}

// uploadFault says in a result what went wrong, without this node's paths.
func uploadFault(err error) string {
	switch {
	case errors.Is(err, fleet.ErrTooLarge):
		return "the file is too large"
	case errors.Is(err, errOtherToken):
		return "the agent mixed the chunks of two files"
	case errors.Is(err, fleet.ErrTimeout):
		return "the agent stopped sending"
	case errors.Is(err, fleet.ErrUnavailable):
		return "the node stopped while the file was sent"
	case errors.Is(err, context.Canceled):
		return "the connection was lost"
	}
	return "the file could not be stored"
}
