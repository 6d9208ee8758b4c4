#!/usr/bin/env bash
# Fuzzes every target, or the named ones, for SECONDS each, two at a time:
#
#   fuzz/run.sh SECONDS [TARGET…]
#
# Requires a nightly compiler, cargo-fuzz, and Python for the seeds. Stops at the first finding, saved in artifacts/TARGET.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:?usage: fuzz/run.sh SECONDS [TARGET…]}
shift
python3 seeds.py
targets=("$@")
((${#targets[@]})) || mapfile -t targets < <(cargo +nightly fuzz list)
cargo +nightly fuzz build
fuzz() {
    mkdir -p "corpus/$1"
    # Pickles of whole modules are larger than other seeds.
    local most=65536
    [[ $1 == torch || $1 == pickle ]] && most=262144
    cargo +nightly fuzz run "$1" -- -max_total_time="$seconds" -rss_limit_mb=1024 -timeout=20 -max_len=$most >"$1.log" 2>&1 ||
        { tail -n 30 "$1.log" >&2; exit 255; }
    tail -n 1 "$1.log"
}
# One thread per target, because two targets run at once.
export RAYON_NUM_THREADS=1
export -f fuzz
export seconds
printf '%s\n' "${targets[@]}" | xargs -P 2 -I{} bash -c 'fuzz {}'
