# `make` or `make help` lists the targets.
.DEFAULT_GOAL := help
.PHONY: help check test fmt lint quickstart real-small bench golden
DATA ?= ../shared/data

help: ## This list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

check: ## Does it compile? The cheap loop
	cargo check --workspace --all-targets

test: ## All tests, as in the README
	RAYON_NUM_THREADS=1 cargo test --workspace

fmt: ## Format
	cargo fmt

lint: ## Formatting and lints, warnings are errors
	cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings

quickstart: ## The whole way on made-up sample data, to runs/quickstart/eval/report.html
	cargo run --release -- quickstart

real-small: ## The whole way on real files: make real-small DATA=DIR
	cargo run --release -- quickstart --data $(DATA)

bench: ## Speed of ops and stages
	cargo bench --workspace

golden: ## Write the golden texts again, to be read in review
	UPDATE_GOLDEN=1 cargo test --workspace --test main help_is
