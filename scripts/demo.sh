#!/bin/sh
# The main job on the sample: look at a base and an adapter, fuse them, check the result.
set -eu
cd "$(dirname "$0")/.."
tenon=build/tenon
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

step() {
	echo
	echo "\$ tenon $*"
	"$tenon" "$@"
}

step inspect examples/base
step inspect examples/adapters/pirate
step fuse --model examples/base --adapter-path examples/adapters/pirate --save-path "$out/pirate"
step verify examples/base examples/adapters/pirate "$out/pirate"
echo
echo "The fused model is a complete Hugging Face folder:"
ls "$out/pirate"
