#!/usr/bin/env bash
# Fuzzes every target, or those that are named, for so many seconds each, two at a time:
#
#   fuzz/run.sh SECONDS [TARGET…]
#
# It needs a nightly compiler, cargo-fuzz, and Python for the seeds. A finding ends it, and is in artifacts/TARGET.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:?how many seconds for each target}
shift
python3 seeds.py
targets=("$@")
((${#targets[@]})) || mapfile -t targets < <(cargo +nightly fuzz list)
cargo +nightly fuzz build
fuzz() {
    mkdir -p "corpus/$1"
    cargo +nightly fuzz run "$1" -- -max_total_time="$seconds" -rss_limit_mb=1024 -timeout=20 -max_len=65536 >"$1.log" 2>&1 ||
        { tail -n 30 "$1.log" >&2; exit 255; }
    tail -n 1 "$1.log"
}
# One thread in each: they share the cores as it is.
export RAYON_NUM_THREADS=1
export -f fuzz
export seconds
printf '%s\n' "${targets[@]}" | xargs -P 2 -I{} bash -c 'fuzz {}'
