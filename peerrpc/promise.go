// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"muster/fleet"
	"muster/internal/pki"
)

// Candidate is a node that wants to found the cluster.
type Candidate struct {
	ServerID string
	Expect   int // its --bootstrap-expect
}

// PromisesOptions say where promises are kept and whose they are.
type PromisesOptions struct {
	// Path is a file in the data directory, which must exist.
	Path string
	// Self is this node.
	Self Candidate
	// ClusterID returns the ID of the cluster that this node belongs to or has
	// seen any member of, or "".
	ClusterID func() string
}

// Promises is the one promise that a node gives in its life without a cluster:
// who may found it. The promise is on disk before anyone hears of it and is
// never given to a second node; only a person can take it back, by removing the
// file of a stopped node. It is safe for concurrent use.
type Promises struct {
	opts PromisesOptions
	step func(string) // for tests: called before each step of writing

	// mu is held while the file is written: a second asker must wait until it is
	// known what the first one got.
	mu    sync.Mutex
	given string
}

const promiseFormat = 1

// promiseFile is the content of the file.
type promiseFile struct {
	Format    int    `json:"format"`
	Candidate string `json:"candidate"` // server ID
}

// OpenPromises reads what was promised before.
func OpenPromises(opts PromisesOptions) (*Promises, error) {
	if _, err := pki.NodeName(opts.Self.ServerID); err != nil {
		return nil, fmt.Errorf("peerrpc: PromisesOptions.Self: %w", err)
	}
	switch {
	case opts.Path == "":
		return nil, errors.New("peerrpc: PromisesOptions.Path is missing")
	case opts.Self.Expect < 0:
		return nil, errors.New("peerrpc: PromisesOptions.Self.Expect is negative")
	case opts.ClusterID == nil:
		return nil, errors.New("peerrpc: PromisesOptions.ClusterID is missing")
	}
	p := &Promises{opts: opts, step: func(string) {}}
	data, err := os.ReadFile(opts.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the promise: %w", err)
	}
	var f promiseFile
	if err := json.Unmarshal(data, &f); err != nil || f.Format < 1 || f.Candidate == "" {
		return nil, fmt.Errorf("%s is damaged: if this node never belonged to a cluster, move its data directory away and start again", opts.Path)
	}
	if f.Format > promiseFormat {
		return nil, fmt.Errorf("%s was written by a newer version (format %d, this one knows %d): start that version", opts.Path, f.Format, promiseFormat)
	}
	p.given = f.Candidate
	return p, nil
}

// Given returns the server ID of the node that was promised, or "".
func (p *Promises) Given() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.given
}

// Promise gives the promise to the candidate, this node itself included, or
// says why not. Asking again gives the same answer.
func (p *Promises) Promise(_ context.Context, c Candidate) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.refuse(c); err != nil {
		return err
	}
	// Also when it was given before: that writing may have failed half-way. And
	// until this one succeeds, nobody else can get it: it may be on disk.
	p.given = c.ServerID
	if err := p.write(promiseFile{Format: promiseFormat, Candidate: c.ServerID}); err != nil {
		return fmt.Errorf("keep the promise to %s: %w", c.ServerID, err)
	}
	return nil
}

func (p *Promises) refuse(c Candidate) error {
	self := p.opts.Self
	id := p.opts.ClusterID()
	switch {
	case id != "":
		return fleet.Refuse(fleet.CodeConflict, "%s knows cluster %s: join it", self.ServerID, id)
	case self.Expect == 0:
		return fleet.Refuse(fleet.CodeConflict, "%s only joins (--bootstrap-expect 0)", self.ServerID)
	case c.Expect != self.Expect:
		return fleet.Refuse(fleet.CodeConflict, "%s has --bootstrap-expect %d, %s has %d: give all new nodes the same",
			self.ServerID, self.Expect, c.ServerID, c.Expect)
	case p.given != "" && p.given != c.ServerID:
		return fleet.Refuse(fleet.CodeConflict,
			"%s has promised %s to let it found the cluster, and promises only once: start that node; if its data is lost, stop this one and remove %s",
			self.ServerID, p.given, p.opts.Path)
	}
	return nil
}

// write replaces the file; when it returns nil, name and content survive a
// power loss. A crash at any step leaves the old content or the new one.
func (p *Promises) write(f promiseFile) error {
	data, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	p.step("create")
	tmp, err := os.OpenFile(p.opts.Path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	p.step("write")
	_, err = tmp.Write(append(data, '\n'))
	if err == nil {
		p.step("sync")
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	p.step("rename")
	if err := os.Rename(tmp.Name(), p.opts.Path); err != nil {
		return err
	}
	p.step("sync the directory")
	dir, err := os.Open(filepath.Dir(p.opts.Path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
