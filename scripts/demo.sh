#!/bin/sh
# The main job on the sample: look at a base and an adapter, fuse them, check the result; then hear the voices, live and fused.
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

story="Tell me a story about Lily the cat."
echo
echo "The sample tells a story: as itself, as a pirate, and as a robot after a swap that leaves the base where it is."
echo
echo "\$ tenon chat --model examples/base --adapter-path examples/adapters/pirate --adapter-path examples/adapters/robot"
printf '%s\n' "/adapter off" "$story" /reset "/adapter pirate" "$story" /reset "/adapter robot" "$story" |
	"$tenon" chat --model examples/base --adapter-path examples/adapters/pirate --adapter-path examples/adapters/robot
echo
echo "The 4-bit base of MLX whispers with the adapter that was trained on it:"
step run --model examples/base-mlx-4bit --adapter-path examples/adapters/whisper -p "$story" -n 64

echo
echo "Fused models tell what the live ones told:"
step run -q --model "$out/pirate" -p "$story"
"$tenon" fuse -q --model examples/base --adapter-path examples/adapters/robot --save-path "$out/robot"
step run -q --model "$out/robot" -p "$story"
"$tenon" fuse -q --model examples/base-mlx-4bit --adapter-path examples/adapters/whisper --dequantize --save-path "$out/whisper"
step run -q --model "$out/whisper" -p "$story" -n 64
