#!/bin/sh
# The same weights from every instruction set and every architecture: what fuse, quantize, dequantize and convert write of
# the examples, against the hashes in files.sha256. usage: files.sh [--set] SOURCE TENON..., the last with the emulator that it needs.
# --set writes the hashes anew, as portable makes them: to be read beside the change of arithmetic that moved them.
set -u
set_anew=
if [ "$1" = --set ]; then
	set_anew=1
	shift
fi
source=$1
shift
examples=$source/examples adapters=$source/examples/adapters golden=$source/tests/conformance/files.sha256
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1

make() { # folder, verb and arguments
	out=$1 verb=$2
	shift 2
	case $verb in
	convert) $tenon convert --isa "$isa" --quiet --mlx-path "$out" "$@" ;;
	*) $tenon "$verb" --isa "$isa" -q --save-path "$out" "$@" ;;
	esac >said 2>&1 || { echo "$isa: tenon $verb $* failed:"; cat said; exit 1; }
}

fuse() { # folder, base, rounding, adapters
	out=$1 base=$2 rounding=$3
	shift 3
	for adapter; do
		set -- "$@" --adapter-path "$adapters/$adapter"
		shift
	done
	make "$out" fuse --model "$base" ${rounding:+--rounding "$rounding"} "$@"
}

everything() {
	make f16 convert --hf-path "$examples/base" --dtype float16
	make f32 convert --hf-path "$examples/base" --dtype float32
	for base in "$examples/base" f16 f32; do
		name=$(basename "$base")
		fuse "$name-lora" "$base" '' pirate
		fuse "$name-dora" "$base" '' robot
		make "$name-q4" quantize --model "$base" --q-bits 4
	done
	fuse base-mlx "$examples/base" '' whisper
	fuse base-two "$examples/base" '' pirate whisper
	for bits in 2 3 5 6 8; do
		make "base-q$bits" quantize --model "$examples/base" --q-bits "$bits" --q-group-size 32
	done
	for mode in mxfp4 mxfp8 nvfp4; do
		make "base-$mode" quantize --model "$examples/base" --q-mode "$mode"
	done
	make base-nf4 convert --hf-path "$examples/base" --to bnb-nf4
	for base in base-* f16-q4; do
		case $base in
		*-lora | *-dora | *-mlx | *-two) continue ;;
		esac
		make "$base-dense" dequantize --model "$base"
		fuse "$base-dither" "$base" dither pirate
	done
	for base in "$examples/base-mlx-4bit" base-mxfp4 f32-q4; do
		name=$(basename "$base")
		fuse "$name-nearest-lora" "$base" nearest pirate
		fuse "$name-nearest-dora" "$base" nearest robot
		fuse "$name-dither-dora" "$base" dither robot
		make "$name-like-mlx" dequantize --model "$base" --like-mlx
		make "$name-half" dequantize --model "$base" --dtype float16
	done
}

result=0 ran=0
for isa in $(sed -n 's/^ISA(\([a-z0-9]*\),.*/\1/p' "$source/src/kernels/isa.def"); do
	tenon=$*
	if ! $tenon inspect -q --isa "$isa" "$examples/base" >/dev/null 2>&1; then
		echo "NOT RUN: $isa"
		continue
	fi
	mkdir "$isa" && cd "$isa" || exit 1
	everything
	find -- * -name '*.safetensors' -exec sha256sum {} + | LC_ALL=C sort -k 2 >"../$isa.sha256"
	cd .. && rm -r "$isa"
	if [ -n "$set_anew" ]; then
		cp "$isa.sha256" "$golden"
		exit 0
	fi
	ran=$((ran + 1))
	if diff "$golden" "$isa.sha256" >differences; then
		echo "$isa: $(wc -l <"$golden") files, all the same"
	else
		echo "$isa: these differ (<: expected)"
		cat differences
		result=1
	fi
done
[ "$ran" -gt 0 ] || result=1
exit $result
