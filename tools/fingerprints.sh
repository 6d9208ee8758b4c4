#!/usr/bin/env bash
# Prints the figures of crates/cli/tests/fingerprints.json as a binary has them: weights, samples, likelihoods.
#
#   tools/fingerprints.sh [BINARY]      by default target/release/ddpm
#
# To record figures that changed on purpose, write its output to that file and say in the changelog which changed and why.
set -euo pipefail
cd "$(dirname "$0")/.."
binary=$(realpath "${1:-target/release/ddpm}")
DDPM=$binary cargo test --release -q -p ddpm-cli --test fingerprints -- --nocapture | sed -n '/^{/,/^}/p'
