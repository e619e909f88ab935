// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"math"
	"strconv"
)

// OfflineAfterSeconds is the age of the last sign of life at which an agent
// counts as offline. Source: Elkeid's Manager.
const OfflineAfterSeconds = 600

// AgentState is what the Manager says about an agent.
type AgentState string

// The states of agents.
const (
	AgentRunning  AgentState = "running"
	AgentAbnormal AgentState = "abnormal"
	AgentOffline  AgentState = "offline"
)

// StateOf judges an agent by its last sign of life and the field `state` of
// its last heartbeat; now and seenAt are in Unix seconds.
func StateOf(now, seenAt int64, reported string) AgentState {
	switch {
	case now-seenAt > OfflineAfterSeconds:
		return AgentOffline
	case reported == string(AgentAbnormal):
		return AgentAbnormal
	default:
		return AgentRunning
	}
}

// textFields are the heartbeat fields that stay strings in JSON even when they
// look like numbers, and those that never are numbers.
var textFields = map[string]bool{
	"kernel_version": true, "arch": true, "platform": true, "platform_family": true,
	"platform_version": true, "state": true, "state_detail": true, "idc": true, "region": true,
	"net_mode": true, "version": true, "host_serial": true, "host_id": true, "host_model": true,
	"host_vendor": true, "dns": true, "gateway": true, "cpu_name": true,
	"name": true, "pversion": true,
}

// HeartbeatValue turns a field of a 1000 or 1001 record into its JSON value: a
// number where the field is one, else the text. A number that JSON cannot
// hold (the first heartbeat's +Inf) becomes 0.
func HeartbeatValue(field, value string) any {
	if textFields[field] {
		return value
	}
	f, err := strconv.ParseFloat(value, 64)
	switch {
	case err != nil && !math.IsInf(f, 0):
		return value
	case math.IsInf(f, 0), math.IsNaN(f):
		return float64(0)
	}
	return f
}

// FactFields are the heartbeat fields that seldom change: they are replicated
// with the inventory, so that an offline agent is still described.
func FactFields() []string {
	return []string{
		"kernel_version", "arch", "platform", "platform_family", "platform_version",
		"idc", "region", "net_mode", "host_serial", "host_id", "host_model", "host_vendor",
		"dns", "gateway", "cpu_name", "nproc", "total_mem", "boot_time", "start_time", "state",
	}
}
