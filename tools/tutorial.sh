#!/usr/bin/env bash
# Runs the commands of docs/tutorial.md as they stand there, and writes its pictures: tools/tutorial.sh
# `ddpm` is target/release/ddpm, or DDPM. Takes minutes. Its training is left out: it has no picture.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
folder=$(mktemp -d)
mkdir "$folder/bin"
ln -s "$(realpath "${DDPM:-target/release/ddpm}")" "$folder/bin/ddpm"
export PATH=$folder/bin:$PATH CARGO_TARGET_DIR=$root/target
awk '/^```/ { inside = !inside; next } inside && $0 != "ddpm train"' docs/tutorial.md > "$folder/commands"
cd "$folder"
while read -r command; do
    echo "$ $command"
    case $command in
    cargo*) eval "$command --manifest-path $root/Cargo.toml" < /dev/null ;;
    *) eval "$command" < /dev/null ;;
    esac
done < commands
mkdir -p "$root/docs/pictures/tutorial"
for picture in $(grep -o 'pictures/tutorial/[^)]*' "$root/docs/tutorial.md"); do
    cp "$(basename "$picture")" "$root/docs/$picture"
done
rm -r "$folder"
