// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package floor is the least that a server between agents and Kafka can do: no
// sessions, no limits, no metrics, no retries. It is what Muster's cost is held
// against, measured in the same run. Its steps can be measured one by one.
package floor
