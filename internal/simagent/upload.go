// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package simagent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"

	"muster/internal/agentpb"
)

const (
	// uploadInterval is between chunks, and before the first.
	uploadInterval = time.Second
	// uploadTimeout bounds an upload, and with it the size of a file: at most
	// this many chunks of the size that was asked for.
	uploadTimeout = 600 * time.Second
	// maxChunkBytes bounds a chunk whatever the task asks for.
	maxChunkBytes = 500 << 10
	// SyntheticFileBytes is the size of every file when Options.FilesDir is empty.
	SyntheticFileBytes = 10_000
)

// uploadTask is the data of a 1050 task.
type uploadTask struct {
	Path    string `json:"path"`
	BufSize int64  `json:"buf_size"`
	token   string
}

// startUpload uploads beside everything else, one file at a time.
func (a *agent) startUpload(ctx context.Context, conn *grpc.ClientConn, task uploadTask) {
	a.mu.Lock()
	busy := a.process.uploading
	a.process.uploading = true
	a.mu.Unlock()
	if busy {
		a.fleet.counters.uploadFails.Add(1)
		a.fail(task.token, "another upload is still running")
		return
	}
	a.uploads.Go(func() {
		err := a.upload(ctx, conn, task)
		if err != nil {
			a.fleet.counters.uploadFails.Add(1)
			a.fail(task.token, err.Error())
		} else {
			a.fleet.counters.uploads.Add(1)
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.process.uploading = false
	})
}

// upload sends a file through FileExt, one chunk a second.
func (a *agent) upload(ctx context.Context, conn *grpc.ClientConn, task uploadTask) error {
	content, size, err := a.fleet.openFile(task.Path)
	if err != nil {
		return fmt.Errorf("open %s: %w", task.Path, err)
	}
	defer content.Close()
	if limit := task.BufSize * int64(uploadTimeout/time.Second); size > limit {
		return fmt.Errorf("%s has %d bytes, with this buf_size at most %d are possible", task.Path, size, limit)
	}
	ctx, cancel := context.WithTimeout(ctx, uploadTimeout)
	defer cancel()
	stream, err := agentpb.NewFileExtClient(conn).Upload(ctx, a.fleet.callOptions...)
	if err != nil {
		return fmt.Errorf("open upload: %w", err)
	}
	ticker := time.NewTicker(uploadInterval)
	defer ticker.Stop()
	chunk := make([]byte, max(1, min(task.BufSize, maxChunkBytes)))
	for last := false; !last; {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("upload %s: %w", task.Path, ctx.Err())
		}
		n, err := io.ReadFull(content, chunk)
		last = errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			return fmt.Errorf("read %s: %w", task.Path, err)
		}
		err = stream.Send(&agentpb.UploadRequest{Token: task.token, Data: chunk[:n]})
		if errors.Is(err, io.EOF) {
			break // the server has ended the upload; CloseAndRecv says why
		}
		if err != nil {
			return fmt.Errorf("upload %s: %w", task.Path, err)
		}
	}
	answer, err := stream.CloseAndRecv()
	if err != nil {
		return fmt.Errorf("finish upload: %w", err)
	}
	if answer.GetStatus() != agentpb.UploadResponse_SUCCESS {
		return fmt.Errorf("the server refused the upload: %v", answer.GetStatus())
	}
	return nil
}

// openFile opens a path below FilesDir, or makes content up.
func (f *Fleet) openFile(path string) (content io.ReadCloser, size int64, err error) {
	if f.opts.FilesDir == "" {
		line := fmt.Appendf(nil, "made-up content of %q\n", path)
		data := bytes.Repeat(line, SyntheticFileBytes/len(line)+1)[:SyntheticFileBytes]
		return io.NopCloser(bytes.NewReader(data)), SyntheticFileBytes, nil
	}
	file, err := os.OpenInRoot(f.opts.FilesDir, strings.TrimLeft(path, "/"))
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, info.Size(), nil
}
