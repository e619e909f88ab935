# Muster. `make` alone lists what there is to make.
#
# Go is enough for `run`, `build` and `test`; the other tools that some targets
# use are pinned in internal/tools/go.mod and built by Go when first used.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS   += --no-builtin-rules

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -X main.version=$(VERSION)
TOOL    := go tool -modfile=$(CURDIR)/internal/tools/go.mod

# Go switches cgo off where it finds no C compiler, which -race needs.
RACE = $(if $(filter 1,$(shell go env CGO_ENABLED)),-race)

# What to test, and with which further flags: make test PKG=./gossip/... ARGS='-run Join -v'
PKG  ?= ./...
ARGS ?=

FUZZTIME  ?= 10s
BENCHTIME ?= 1s
PLATFORMS ?= linux/amd64 linux/arm64

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@echo "usage: make TARGET"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: build
build: ## build bin/muster, static
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o bin/muster ./cmd/muster

.PHONY: run
run: build ## build, then start a node with simulated agents on this machine (muster dev)
	exec bin/muster dev $(ARGS)

.PHONY: test
test: ## run the tests (PKG=./gossip/... ARGS='-run Join -v')
	@$(if $(RACE),,echo "no C compiler here: testing without the race detector")
	go test $(RACE) -shuffle=on -timeout 25m $(ARGS) $(PKG)

.PHONY: check
check: fmt-check vet lint generate-check tidy-check rules ## everything that CI checks without running the program

.PHONY: fmt
fmt: ## format the Go files
	$(TOOL) golangci-lint fmt

.PHONY: fmt-check
fmt-check:
	@files=$$(gofmt -l $$(git ls-files --cached --others --exclude-standard '*.go')); \
	if [[ -n $$files ]]; then echo "not formatted (make fmt):"; echo "$$files"; exit 1; fi

.PHONY: vet
vet:
	go vet ./...

.PHONY: lint
lint: ## run golangci-lint as .golangci.yml says (the first time builds it: some minutes)
	$(TOOL) golangci-lint run ./...

.PHONY: rules
rules: ## test the import table and the rules of style
	go test -count=1 -run '^Test(ImportTable|Hygiene)' ./test

# Where protobuf is generated, a buf.gen.yaml stands beside the .proto.
GENERATED_IN = $(patsubst %/buf.gen.yaml,%,$(shell git ls-files --cached --others --exclude-standard '*buf.gen.yaml'))

# promcheck is a module of its own: Prometheus' engine is not part of Muster. The
# first time fetches and builds it (a minute).
.PHONY: check-metrics
check-metrics: ## test dashboard and alert rules with Prometheus' own engine, on rules alone and on a live cluster
	go vet -C internal/tools/promcheck ./...
	MUSTER_TEST_METRICS=1 go test -count=1 -timeout 10m -run '^Test(AlertRules|Dashboard)' $(ARGS) ./test

.PHONY: generate
generate: ## generate the protobuf code and the documents of the API
	@for dir in $(GENERATED_IN); do \
		echo "buf generate in $$dir"; (cd $$dir && $(TOOL) buf generate); \
	done
	go test ./httpapi -run '^TestAPIDocs$$' -update

# Compares with what is in the tree, not in git: a change need not be committed
# to be checked.
.PHONY: generate-check
generate-check:
	@sum() { git ls-files -z --cached --others --exclude-standard '*.pb.go' docs/api.md docs/openapi.json | xargs -0 sha256sum; }; \
	before=$$(sum); $(MAKE) --no-print-directory generate; \
	if ! diff <(echo "$$before") <(sum); then \
		echo "generated code was out of date; it is generated now: commit it with its .proto"; exit 1; \
	fi

.PHONY: tidy-check
tidy-check:
	go mod tidy -diff

# Go fuzzes one function at a time. Now and then it ends with its own deadline
# as the error, and no failing input: that is tried once more.
.PHONY: fuzz
fuzz: ## fuzz each decoder for a while (FUZZTIME=10s)
	@grep -rEo --include='*_test.go' '^func Fuzz\w+' . | sed -E 's,^\./(.*)/[^/]+:func (Fuzz.*),\1 \2,' | sort | \
	while read -r dir name; do \
		echo "--- $$dir $$name"; \
		fuzz() { go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 5s "./$$dir" </dev/null 2>&1; }; \
		out=$$(fuzz) || { \
			if [[ $$out == *"context deadline exceeded"* && $$out != *"Failing input written"* ]]; then out=$$(fuzz); else false; fi; \
		} || { echo "$$out"; exit 1; }; \
		echo "$$out" | tail -n 2; \
	done

# Real nodes on this machine; with root, links between them are cut, too. The
# seed of a run is printed first and last: SEED= repeats its schedule.
DURATION ?= 10m
SEED     ?=

.PHONY: chaos
chaos: ## kill, stop, wipe and cut off nodes at random under load (DURATION=10m SEED=)
	MUSTER_TEST_CHAOS=$(DURATION) MUSTER_TEST_CHAOS_SEED=$(SEED) go test -count=1 -timeout 12h -run '^TestChaos$$' -v $(ARGS) ./test

# A quarter of an hour, if the machine is quiet.
.PHONY: balance
balance: ## five nodes and 3,000 stock agents through a kill, a stop, a drain and a join (figures of docs/benchmarks.md)
	MUSTER_TEST_BALANCE=1 go test -count=1 -timeout 30m -run '^TestProcessBalance' -v $(ARGS) ./test

# BROKERS is 1 or 3. deploy/kafka/README.md has the rest.
BROKERS ?= 1

.PHONY: kafka-up
kafka-up: ## start an Apache Kafka on this machine to test against (BROKERS=3); needs Java
	@deploy/kafka/kafka up $(BROKERS)

.PHONY: kafka-down
kafka-down: ## stop it and delete its data
	@deploy/kafka/kafka down

.PHONY: test-kafka
test-kafka: ## test the data path and broker faults against an Apache Kafka (ARGS='-run SASL -v'); needs Java
	@deploy/kafka/kafka fetch
	MUSTER_TEST_KAFKA=1 go test -count=1 -timeout 20m $(ARGS) ./test/kafka

.PHONY: microbench
microbench: ## run the benchmarks of packages (PKG=./agentrpc/... BENCHTIME=1s)
	go test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) $(ARGS) $(PKG)

# The figures of docs/benchmarks.md: Muster and a floor beside each other, each
# a process of its own, with a load generator and a broker that keeps nothing.
ROWS    ?=
LONG    ?=
STRICT  ?=
PROFILE ?=

.PHONY: bin/bench
bin/bench: build
	go build -o bin/bench ./test/bench

.PHONY: bench
bench: bin/bench ## print the table of docs/benchmarks.md (ROWS=cpu,storm LONG=1 STRICT=1 PROFILE=DIR ARGS='--rounds 5')
	bin/bench run $(if $(ROWS),--rows $(ROWS)) $(if $(LONG),--long) $(if $(STRICT),--strict) $(if $(PROFILE),--profile $(PROFILE)) $(ARGS)

# The tables of "Many nodes" in docs/benchmarks.md and "Gossip: timing and traffic"
# in docs/operations.md: about 10 minutes of CPU. ARGS='--nodes 50 --seeds 1' makes it short.
.PHONY: simulate
simulate: ## simulate 5, 50 and 200 nodes with a million agents; draw docs/balance.svg; measure the gossip of 200 nodes
	go run ./test/simfleet/simulate --plot docs/balance.svg $(ARGS)
	MUSTER_TEST_GOSSIP_NODES=200 go test -count=1 -timeout 1h -run '^TestTraffic$$' -v ./gossip

.PHONY: soak
soak: bin/bench ## hold 15,000 agents and see whether anything grows (DURATION=20m)
	bin/bench soak $(if $(filter command line environment,$(origin DURATION)),--duration $(DURATION)) $(ARGS)

# The same commit gives the same bytes, whoever builds it and when.
.PHONY: dist
dist: ## build dist/: a tarball for each of PLATFORMS (static binary, docs, unit, sample settings), and SHA256SUMS
	rm -rf dist && mkdir -p dist
	@for platform in $(PLATFORMS); do \
		os=$${platform%/*} arch=$${platform#*/}; name=muster-$(VERSION)-$$os-$$arch; \
		echo "dist/$$name.tar.gz"; \
		mkdir dist/$$name; \
		GOOS=$$os GOARCH=$$arch CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w $(LDFLAGS)' -o dist/$$name/muster ./cmd/muster; \
		cp -r LICENSE $(wildcard README*.md CHANGELOG.md) docs deploy dist/$$name/; \
		tar -C dist --sort=name --mode=u=rwX,go=rX --owner=0 --group=0 --numeric-owner --mtime="@$$(git log -1 --format=%ct 2>/dev/null || echo 0)" -cf - $$name | gzip -n9 >dist/$$name.tar.gz; \
		rm -rf dist/$$name; \
	done
	cd dist && sha256sum *.tar.gz >SHA256SUMS && cat SHA256SUMS

.PHONY: clean
clean: ## remove what make made
	rm -rf bin dist
