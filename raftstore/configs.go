// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"bytes"
	"sync"

	"muster/fleet"
)

// maxParsed bounds the configs that are kept decoded. As a rule there are few:
// the default one and those of recent tasks.
const maxParsed = 256

// parsedConfigs keeps the configs of bucketConfigs decoded, since each agent is
// asked for at each change. What it keeps holds for exactly the bytes that it was
// made of, so that nothing need be thrown away when the state changes.
type parsedConfigs struct {
	mu    sync.Mutex
	byKey map[string]parsedConfig
}

// parsedConfig is shared and never changed.
type parsedConfig struct {
	content  []byte
	items    []fleet.ConfigItem
	revision uint64 // of the default config
}

// get returns false if there is no such config.
func (p *parsedConfigs) get(v view, key string) (parsedConfig, bool) {
	content := v.get(bucketConfigs, []byte(key))
	if content == nil {
		return parsedConfig{}, false
	}
	p.mu.Lock()
	found, ok := p.byKey[key]
	p.mu.Unlock()
	if ok && bytes.Equal(found.content, content) {
		return found, true
	}
	found = parsedConfig{content: bytes.Clone(content)}
	if key == defaultConfigKey {
		var conf fleet.DefaultConfig
		mustDecode(bucketConfigs, []byte(key), content, &conf)
		found.items, found.revision = conf.Items, conf.Revision
	} else {
		var conf ownConfig
		mustDecode(bucketConfigs, []byte(key), content, &conf)
		found.items = conf.Items
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byKey == nil || len(p.byKey) >= maxParsed {
		p.byKey = make(map[string]parsedConfig)
	}
	p.byKey[key] = found
	return found, true
}
