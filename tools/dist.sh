#!/usr/bin/env bash
# Builds the program for distribution: thin LTO, and no trace of the builder's folders in its messages.
#
#   tools/dist.sh [CARGO ARGUMENTS]      writes target/dist/dist/ddpm
#
# Cargo has no stable option yet that removes paths (`trim-paths`), so they are remapped here.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo_home=${CARGO_HOME:-$HOME/.cargo}
# rustc applies the last prefix that matches.
flags=("--remap-path-prefix=$HOME=home" "--remap-path-prefix=$cargo_home=cargo" "--remap-path-prefix=$PWD=ddpm")
for folder in "$cargo_home"/registry/src/*; do flags+=("--remap-path-prefix=$folder=registry"); done
RUSTFLAGS="${RUSTFLAGS-} ${flags[*]}" cargo build --profile dist --target-dir target/dist -p ddpm-cli "$@"
if strings target/dist/dist/ddpm | grep -F -e "$HOME/" -e "$PWD/"; then
    echo "target/dist/dist/ddpm names folders of this machine" >&2
    exit 1
fi
ls -l target/dist/dist/ddpm
