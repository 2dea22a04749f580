# The front door. `make` alone lists the targets.

.DEFAULT_GOAL := help
.PHONY: help setup build up down doctor test check unit e2e test-kvm fuzz audit sbom dist image docs bench bench-compare clean

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
HEARTH := $(TARGET_DIR)/fast/hearth
# The daemon is root's.
SUDO := $(shell [ "$$(id -u)" -eq 0 ] || command -v sudo)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: ## install what is missing, build, start Hearth and stay up
	@scripts/up

down: ## stop Hearth and its sandboxes
	@$(SUDO) $(HEARTH) down

test: ## everything CI runs, from nothing
	@scripts/test

setup: ## install the host packages
	@scripts/setup

build: ## build the programs for guests, and the host binary that carries them
	@scripts/build

doctor: ## say whether this machine can run Hearth, and what to fix
	@$(SUDO) $(HEARTH) doctor

check: ## formatting, lints, licences
	@scripts/check

unit: ## Rust tests
	@scripts/unit

e2e: build ## end-to-end suites with the official SDKs (as root)
	@scripts/e2e

test-kvm: build ## the suite in an emulated machine that has KVM (as root)
	@scripts/prepare
	@scripts/kvm-machine test

fuzz: ## fuzz the parsers of what strangers send, a minute each (as root)
	@scripts/fuzz

audit: ## known vulnerabilities in dependencies (needs the network)
	@$$(scripts/tools cargo-deny) check advisories

sbom: ## what is in Hearth, as CycloneDX JSON
	@scripts/sbom

dist: ## packages for machines without a compiler, in dist/
	@scripts/dist

image: ## an OCI image, in dist/ (as root)
	@scripts/oci-image

docs: ## the documentation as a site, in dist/site; links are checked
	@scripts/docs

bench: ## time to interactive against the running Hearth
	@$(SUDO) $(HEARTH) bench tti

bench-compare: ## this commit beside REV=<commit>, run in turn (as root)
	@bench/compare.py $(or $(REV),$(error name a commit: make bench-compare REV=main~1))

clean: ## remove what was built; the caches of the tests stay
	@cargo clean
