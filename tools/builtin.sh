#!/bin/sh
# Makes a run the model inside the program: tools/builtin.sh RUN
# Writes crates/weights/builtin/fashion; crates/weights/builtin/README.md has the recipe.
set -eu
cd "$(dirname "$0")/.."
run=$(cd "$1" && pwd)
model=crates/weights/builtin/fashion
rm -rf "$model"
${DDPM:-target/release/ddpm} export "$run" -o "$model" --half
mkdir "$model/training"
# The IDX files have no names of the classes.
names='T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag Ankle_boot'
label=0
for name in $names; do
    sed -i "s|\"$label\": \"$label\"|\"$label\": \"$(echo "$name" | tr _ ' ')\"|" "$model/preprocessing.json"
    label=$((label + 1))
done
gzip -9 -n "$model/unet/diffusion_pytorch_model.safetensors"
# The images' path means nothing elsewhere: a part of them is in the program.
checkpoint=$(ls -d "$run"/checkpoints/0* | tail -n 1)
sed '/^path = /d' "$checkpoint/training/config.toml" > "$model/training/config.toml"
printf '{\n  "set": "fashion-mnist",\n  "path": null\n}\n' > "$model/data.json"
ls -l "$model"/*
