// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"encoding/hex"
	"net/url"
)

// MaxConfigItems is the longest desired config.
const MaxConfigItems = 256

// ConfigItem is one component that an agent should run. The JSON names are
// Elkeid's.
type ConfigItem struct {
	Name        string   `json:"name"`
	Type        string   `json:"type"`
	Version     string   `json:"version"`
	SHA256      string   `json:"sha256"`    // hex, of the file that download_url gives
	Signature   string   `json:"signature"` // hex SHA-256 of the main file of a tar.gz
	DownloadURL []string `json:"download_url"`
	Detail      string   `json:"detail"`
}

// CheckConfig refuses a desired config that would harm an agent: an empty list
// (it deletes every plugin), a name twice, an item without a name, a malformed
// hash or URL.
func CheckConfig(items []ConfigItem) error {
	if len(items) == 0 {
		return Invalid("config", "is empty: an agent that gets an empty list deletes all its plugins")
	}
	if len(items) > MaxConfigItems {
		return Invalid("config", "has %d items, at most %d are accepted", len(items), MaxConfigItems)
	}
	seen := make(map[string]bool, len(items))
	for _, it := range items {
		if it.Name == "" {
			return Invalid("config", "an item has no name")
		}
		if seen[it.Name] {
			return Invalid("config", "%q stands in it twice", it.Name)
		}
		seen[it.Name] = true
		if err := it.check(); err != nil {
			return err
		}
	}
	return nil
}

func (c ConfigItem) check() error {
	for field, sum := range map[string]string{"sha256": c.SHA256, "signature": c.Signature} {
		if sum == "" {
			continue
		}
		if b, err := hex.DecodeString(sum); err != nil || len(b) != 32 {
			return Invalid("config", "%s of %q is not a hex SHA-256", field, c.Name)
		}
	}
	for _, u := range c.DownloadURL {
		parsed, err := url.Parse(u)
		if err != nil || (parsed.Scheme != "http" && parsed.Scheme != "https") || parsed.Host == "" {
			return Invalid("config", "download_url %q of %q is not an http(s) URL", u, c.Name)
		}
	}
	return nil
}

// DefaultConfig is what an agent gets that has no config of its own.
type DefaultConfig struct {
	Type    string       `json:"type"`
	Version string       `json:"version"`
	Items   []ConfigItem `json:"config"`
	// Revision is the log index of the last change, 0 if there never was one.
	Revision uint64 `json:"revision"`
}

// Desired is all that a node needs to know to serve one agent.
type Desired struct {
	// Config is the whole list that the agent should run; empty means that
	// nothing at all may be sent.
	Config []ConfigItem
	// Revision grows with every change of Config; a lower one must never
	// follow a higher one.
	Revision uint64
	// Own is true when Config was set for this agent, not by default.
	Own bool
	// Tags are sorted.
	Tags []string
}
