#!/bin/sh
# crash_consume.sh FAULTFS TENON BASE ADAPTER
#
# tenon fuse --consume-input on a copy of BASE, with each of its calls that change files failing in turn, or killing it.
#
# - While the base is not marked it is as it was, and a failure leaves nothing else.
# - Once it is marked, no other command takes it for a model, and a fuse without --resume is refused and changes nothing.
# - With --resume the job ends: the result is that of an undisturbed run, and of the base no weights are left.
#
# TEST_STEP=N: every N-th of the calls. faultfs itself aborts when a file is cut, or renamed, before what was written is durable.
set -u
faultfs=$1 tenon=$2 base=$3 adapter=$4
area=$(mktemp -d "${TMPDIR:-/tmp}/tenon-crash-XXXXXX") || exit 2
trap 'rm -rf "$area"' EXIT INT TERM
place=$area/place mark=$area/mark
runs=0 taken_up=0

describe() {
	[ -d "$1" ] || return 0
	(cd "$1" && find . -type d | LC_ALL=C sort && find . -type f -exec cksum {} + | LC_ALL=C sort)
}

complain() {
	echo "crash_consume: $*" >&2
	find "$place" -type f -size -1000k -exec ls -l {} + >&2
	cat "$area/stderr" >&2
	exit 1
}

reset() {
	rm -rf "$place" "$mark" "$area"/lora-*
	used=$adapter
	mkdir "$place"
	cp -R "$base" "$place/base"
}

fuse() { # variables, further options
	vars=$1
	shift
	# shellcheck disable=SC2086
	env $vars ASAN_OPTIONS=verify_asan_link_order=0 "$tenon" fuse -q --threads 1 --consume-input --model "$place/base" \
		--adapter-path "$used" --save-path "$place/out" "$@" >"$area/stdout" 2>"$area/stderr"
}

reset
before=$(describe "$place/base")
fuse A=1 || complain "the command fails without a fault"
after=$(describe "$place/out")
left=$(cd "$place/base" && ls -A)
case $left in *safetensors*) complain "weights are left without a fault" ;; esac

check_unmarked() { # what, exit status
	# a half-written mark may lie there; the next run writes it anew
	[ "$(describe "$place/base" | grep -v tenon-consumed-part)" = "$before" ] || complain "$1: the base is changed, and does not say so"
	[ "$2" -eq 137 ] || [ "$(ls -A "$place")" = base ] || complain "$1: a failure leaves something behind"
}

check_marked() { # what
	"$tenon" inspect "$place/base" >/dev/null 2>&1 && complain "$1: a base that is being used up is taken for a model"
	[ -e "$place/out" ] && return
	[ $((runs % 4)) -eq 0 ] || return # a sample of the instants: each costs two more runs
	state=$(describe "$place")
	fuse A=1 && complain "$1: a fuse without --resume is not refused"
	# the last line counts once it is whole
	grep -qs '^/only copy' "$place/.out.tenon-journal" && [ -z "$(tail -c 1 "$place/.out.tenon-journal")" ] || return
	"$tenon" fuse -q --model "$base" --adapter-path "$adapter" --save-path "$place/out" >/dev/null 2>&1 &&
		complain "$1: another fuse to the same place is not refused"
	[ "$(describe "$place")" = "$state" ] || complain "$1: a refused fuse changes something"
}

check() { # what, exit status
	if grep -qs 'The folder to be' "$place/base/CONSUMED-BY-TENON.txt"; then
		check_marked "$1"
	elif [ ! -e "$place/out" ]; then
		check_unmarked "$1" "$2"
	fi
	# as if the system had been started anew: other inodes
	# and the adapter fetched anew: another place, other times
	cp -R "$adapter" "$area/lora-$((runs % 2))" && used=$area/lora-$((runs % 2))
	[ ! -d "$place/base" ] || { cp -a "$place/base" "$place/copy" && rm -r "$place/base" && mv "$place/copy" "$place/base"; }
	fuse "LD_PRELOAD=$faultfs" --resume || complain "$1: it cannot be taken up again"
	[ "$(describe "$place/out")" = "$after" ] || complain "$1: another result"
	[ "$(cd "$place/base" && ls -A)" = "$left" ] || complain "$1: something else is left of the base"
	[ "$(ls -A "$place" | tr '\n' ' ')" = 'base out ' ] || complain "$1: something is left over"
	grep -q 'had put everything' "$area/stdout" || taken_up=$((taken_up + 1))
}

sweep() { # errno, calls
	at=1
	while :; do
		reset
		FAULT_CALLS=$2
		export FAULT_CALLS
		fuse "LD_PRELOAD=$faultfs FAULT_N=$at FAULT_ERRNO=$1 FAULT_MARK=$mark"
		status=$?
		unset FAULT_CALLS
		[ -e "$mark" ] || break
		what="call $at with errno $1"
		if [ "$1" -eq 0 ]; then
			[ "$status" -eq 137 ] || complain "$what: exit status $status, it should have been killed"
		else
			[ "$status" -lt 126 ] || complain "$what: exit status $status"
		fi
		[ "$status" -eq 0 ] || check "$what" "$status"
		[ "$(describe "$place/out")" = "$after" ] || complain "$what: it says that all is well, and the result is not there"
		runs=$((runs + 1))
		at=$((at + ${TEST_STEP:-1}))
	done
	[ "$at" -gt 1 ] || complain "no call was seen; is faultfs loaded?"
}

changing='pwrite pwritev write fsync fdatasync rename renameat2 fallocate ftruncate mkdir'
sweep 28 "$changing"
sweep 5 "$changing unlink"
sweep 0 "$changing unlink rmdir"
[ "$taken_up" -gt $((10 / ${TEST_STEP:-1})) ] || complain "no run was taken up again"
echo "$runs runs, $taken_up taken up again"
