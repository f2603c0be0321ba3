#!/bin/sh
# fuse.sh [MEGABYTES [RUNS]]: tenon fuse, quantize and dequantize beside a copy of the same base, in turns.
#
# The peer is `cp -r` and a sync of what it wrote, because tenon's output is on disk when it ends. Every job has a copy
# of its own just before it, and the ratio is that of the pair: what disturbs the machine for longer disturbs both.
# Files are in the page cache throughout; a round that is not counted comes first.
#
# TENON and TOOLS: the command, and the folder of timed and make_model (build/tenon, build/bench). BENCH_DIR: where to
# write, three times MEGABYTES.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
megabytes=${1:-1000} runs=${2:-5}
tenon=${TENON:-$here/build/tenon} tools=${TOOLS:-$here/build/bench}
area=$(mktemp -d "${BENCH_DIR:-${TMPDIR:-/tmp}}/tenon-bench-XXXXXX")
trap 'rm -rf "$area"' EXIT
cd "$area"

# measure JOB COMMAND...: one line "JOB seconds cpu resident anonymous" to `found`. What the last removal left in the
# journal is written before the clock starts.
measure() {
	job=$1
	shift
	sync .
	"$tools/timed" line "$@" >log 2>&1 || { cat log >&2; exit 1; }
	[ "$round" -eq 0 ] || echo "$job $(cat line)" >>found
}
# --reflink=never: a copy that shares its blocks writes nothing.
copy() {
	rm -rf out
	# shellcheck disable=SC2016
	measure "cp-$1" sh -c 'cp -r --reflink=never "$1" out && sync out/* out' sh "$2"
	rm -rf out
}

"$tools/make_model" model "$megabytes"
echo "$(du -sm model/base | cut -f1) MiB of base, rank 16 on every linear module, $runs runs"
round=0
while [ "$round" -le "$runs" ]; do
	copy fuse model/base
	measure fuse "$tenon" fuse -q --model model/base --adapter-path model/adapter --save-path out
	copy quantize model/base
	measure quantize "$tenon" quantize -q --model model/base --save-path out --q-bits 4 --q-group-size 64
	rm -rf small
	mv out small
	copy dequantize model/base
	measure dequantize "$tenon" dequantize -q --model small --save-path out
	rm -rf out
	round=$((round + 1))
done

# The median of an odd number of runs is one of them.
awk '
function median(values, n, i, j, swap) {
	for (i = 1; i <= n; i++)
		for (j = i; j > 1 && values[j] < values[j - 1]; j--) {
			swap = values[j]; values[j] = values[j - 1]; values[j - 1] = swap
		}
	return values[int((n + 1) / 2)]
}
{
	job = $1
	i = ++n[job]
	seconds[job, i] = $2
	cpu[job, i] = $3
	resident[job] = $4 > resident[job] ? $4 : resident[job]
	anonymous[job] = $5 > anonymous[job] ? $5 : anonymous[job]
}
END {
	print "job         seconds  (least-greatest)  of cp; sync  (least-greatest)     CPU s  resident  anonymous MB"
	split("fuse quantize dequantize", jobs, " ")
	for (k = 1; k <= 3; k++) {
		job = jobs[k]
		for (i = 1; i <= n[job]; i++) {
			own[i] = seconds[job, i]
			work[i] = cpu[job, i]
			ratio[i] = seconds[job, i] / seconds["cp-" job, i]
		}
		m = median(own, n[job])
		r = median(ratio, n[job])
		printf "%-10s  %7.2f  (%5.2f - %5.2f)   %11.2f  (%5.2f - %5.2f)", job, m, own[1], own[n[job]],
		       r, ratio[1], ratio[n[job]]
		printf "  %8.2f  %8.0f  %12.0f\n", median(work, n[job]), resident[job] / 1e3, anonymous[job] / 1e3
	}
}' found
