// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package main is promcheck: it holds dashboard and alert rules of deploy/ against
// Prometheus' own engine. It is a module of its own, so that none of Prometheus
// gets into Muster's go.mod.
//
//	promcheck rules ALERTS.yaml TESTS.yaml
//	    checks the rules and runs their unit tests, which are in promtool's format
//	promcheck live -dashboard FILE -rules FILE URL...
//	    scrapes the URLs until standard input ends, evaluates every panel and
//	    every alert on what it saw, and writes a report as JSON
package main
