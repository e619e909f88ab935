// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	nodeFileName   = "node.json"
	nodeFileFormat = 1
)

// nodeFile is what a node knows of itself, whatever the cluster says.
type nodeFile struct {
	Format int `json:"format"`
	// ServerID is this directory's identity in Raft: never given to another
	// directory, so a wiped node cannot vote a second time.
	ServerID string `json:"server_id"`
	NodeName string `json:"node_name"`
	// ClusterID is empty until the node is a member.
	ClusterID string `json:"cluster_id"`
	// Recovered is set while the last start was a recovery.
	Recovered bool `json:"recovered,omitempty"`
	// Wrong says how the state was found to differ from the others'. Only another
	// state takes that away, not a restart.
	Wrong string `json:"wrong,omitempty"`
}

// change replaces what the node knows of itself, on the disk first.
func (f *files) change(dir string, edit func(n *nodeFile)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	node := f.node
	edit(&node)
	if node == f.node {
		return nil
	}
	if err := node.write(dir); err != nil {
		return err
	}
	f.node = node
	return nil
}

// openNodeFile reads the directory's identity, and makes one for an empty
// directory. It changes nothing when it returns an error.
func openNodeFile(dir, name string) (nodeFile, error) {
	path := filepath.Join(dir, nodeFileName)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return newNodeFile(dir, name)
	}
	if err != nil {
		return nodeFile{}, fmt.Errorf("reading the node's identity: %w", err)
	}
	var n nodeFile
	if err := json.Unmarshal(data, &n); err != nil || n.ServerID == "" || n.Format < 1 {
		return nodeFile{}, fmt.Errorf("%s is damaged: put it back from a backup, or move %s away and let the node join as a new one", path, dir)
	}
	if n.Format > nodeFileFormat {
		return nodeFile{}, fmt.Errorf("data directory %s was written by a newer version (format %d, this one knows %d): start that version, or an empty directory",
			dir, n.Format, nodeFileFormat)
	}
	if n.NodeName != name {
		return nodeFile{}, fmt.Errorf("data directory %s belongs to node %q, not %q: correct --node-id or --data-dir", dir, n.NodeName, name)
	}
	return n, nil
}

func newNodeFile(dir, name string) (nodeFile, error) {
	for _, other := range []string{stateFileName, logDirName} {
		if _, err := os.Stat(filepath.Join(dir, other)); err == nil {
			return nodeFile{}, fmt.Errorf("data directory %s has %s but no %s: put that file back, or move the directory away and let the node join as a new one",
				dir, other, nodeFileName)
		}
	}
	var id [4]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nodeFile{}, fmt.Errorf("making a server ID: %w", err)
	}
	n := nodeFile{Format: nodeFileFormat, ServerID: name + "~" + hex.EncodeToString(id[:]), NodeName: name}
	return n, n.write(dir)
}

// write replaces the file so that a crash leaves the old or the new one.
func (n nodeFile) write(dir string) error {
	data, err := json.MarshalIndent(n, "", "  ")
	if err != nil {
		return err
	}
	tmp := filepath.Join(dir, nodeFileName+tmpSuffix)
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("writing the node's identity: %w", err)
	}
	_, err = f.Write(append(data, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing the node's identity: %w", err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, nodeFileName)); err != nil {
		return fmt.Errorf("writing the node's identity: %w", err)
	}
	return syncDir(dir)
}

// syncDir makes renames and new files in dir last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("opening directory to sync it: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("syncing directory %s: %w", dir, err)
	}
	return nil
}
