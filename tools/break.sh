#!/usr/bin/env bash
# The long forms of the tests that try to break the program, and their counts:
#
#   tools/break.sh [MUTATIONS [SECONDS]]
#
# A fault at every call that changes files, of every command; MUTATIONS mutated files of each format (5000); and, where
# cargo-fuzz and a nightly compiler are, SECONDS of each fuzz target (1800), two at a time. It takes some hours.
set -euo pipefail
cd "$(dirname "$0")/.."
mutations=${1:-5000}
seconds=${2:-1800}
counts='faults at|mutated|with errors|test result'

cargo test --release -p ddpm-cli -p ddpm --test cli faults:: -- --ignored --nocapture | grep -E "$counts"
DDPM_MUTATIONS=$mutations cargo test --release -p ddpm-data --test hostile mutated -- --nocapture | grep -E "$counts"
DDPM_MUTATIONS=$((20 * mutations)) cargo test --release -p ddpm-weights --test mutated -- --nocapture | grep -E "$counts"
if cargo +nightly fuzz --version >/dev/null 2>&1; then
    fuzz/run.sh "$seconds"
else
    echo "SKIPPED: the fuzz targets need a nightly compiler and cargo-fuzz" >&2
fi
