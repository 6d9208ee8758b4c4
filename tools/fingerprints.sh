#!/usr/bin/env bash
# Prints the fingerprints of a binary as in crates/cli/tests/fingerprints.json: weights, samples, likelihoods.
#
#   tools/fingerprints.sh [BINARY]      default: target/release/ddpm
#
# To record an intended change, write the output to that file, and note in the changelog what changed and why.
set -euo pipefail
cd "$(dirname "$0")/.."
binary=$(realpath "${1:-target/release/ddpm}")
DDPM=$binary cargo test --release -q -p ddpm-cli --test cli fingerprints:: -- --nocapture | sed -n '/^{/,/^}/p'
