#!/bin/sh
# kill_random.sh TENON BASE ADAPTER
#
# tenon fuse, in turn with and without --consume-input, until 200 runs were killed at random instants; each is taken up again
# with --resume, and the result is that of an undisturbed run. TEST_STEP=N: a share of them.
set -u
tenon=$1 base=$2 adapter=$3 count=$((200 / ${TEST_STEP:-1}))
area=$(mktemp -d "${TMPDIR:-/tmp}/tenon-kill-XXXXXX") || exit 2
trap 'rm -rf "$area"' EXIT INT TERM

complain() {
	echo "kill_random: $*" >&2
	cat "$area/stderr" >&2
	exit 1
}

fuse() { "$tenon" fuse -q --threads 2 --model "$area/base" --adapter-path "$adapter" --save-path "$area/out" "$@"; }
same() { diff -r "$area/reference" "$area/out" >/dev/null; }

cp -R "$base" "$area/base"
fuse 2>"$area/stderr" || complain "it fails undisturbed"
mv "$area/out" "$area/reference"
start=$(date +%s%N)
fuse && rm -r "$area/out"
span=$((($(date +%s%N) - start) / 1000))

killed=0 i=0
while [ "$killed" -lt "$count" ] && [ "$i" -lt $((3 * count)) ]; do
	consume=
	[ $((i % 2)) -eq 0 ] || consume=--consume-input
	[ -n "$consume" ] || [ -e "$area/base/config.json" ] || cp -R "$base" "$area/base"
	random=$(od -An -N3 -tu4 /dev/urandom)
	"$tenon" fuse -q --threads 2 --model "$area/base" --adapter-path "$adapter" --save-path "$area/out" $consume >/dev/null 2>&1 &
	sleep "$(printf '0.%06d' $((random % span)))"
	kill -KILL $! 2>/dev/null
	wait $! 2>/dev/null
	# aimed at the whole of a run and little beyond it, however fast the machine is at the moment
	if [ $? -eq 137 ]; then
		killed=$((killed + 1)) span=$((span + span / 32))
	else
		span=$((span - span / 6))
	fi
	if [ -e "$area/out" ] && [ -z "$consume" ]; then
		same || complain "kill $i: half a folder stands under the name"
	else
		fuse $consume --resume >/dev/null 2>"$area/stderr" || complain "kill $i $consume: it cannot be taken up again"
	fi
	same || complain "kill $i $consume: another result"
	rm -rf "$area/out" "$area"/.out.tenon-*
	[ -z "$consume" ] || { rm -rf "$area/base" && cp -R "$base" "$area/base"; }
	i=$((i + 1))
done
[ "$killed" -eq "$count" ] || complain "only $killed of $i were killed in time"
echo "$killed of $i runs killed"
