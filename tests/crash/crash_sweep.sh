#!/bin/sh
# crash_sweep.sh FAULTFS OLD COMMAND...
#
# Runs COMMAND, in which every word @OUT@ is replaced by the folder to write, with each of its calls that change files
# failing in turn (no space, input/output error), or killing it. OLD is a folder that stands there before, or "none".
#
# - At every instant the folder is as it was before or as it is after the whole run; nothing between.
# - A failure (exit status not 0) leaves what was there and nothing else; success leaves the new folder and nothing else.
# - After a kill the same command, run again, succeeds, and nothing is left over.
#
# - With RESUME set the command that is run again has --resume at its end, and the files that the journal speaks of are
#   the same ones afterwards: they were not written a second time.
#
# - With TEST_STEP=N it is every N-th of the calls.
#
# - faultfs itself aborts when a rename comes before the sync of what was written.
#
# FAULT_ALWAYS and FAULT_ALWAYS_ERRNO are handed on: a file system that cannot exchange two names. There, for an instant,
# neither folder stands under the name; then both must be there under their hidden names.
set -u
faultfs=$1 old=$2
shift 2
area=$(mktemp -d "${TMPDIR:-/tmp}/tenon-crash-XXXXXX") || exit 2
trap 'rm -rf "$area"' EXIT INT TERM
place=$area/place
mark=$area/mark
runs=0
resumed=0

# A text for all names and bytes below a folder; empty when there is none.
describe() {
	[ -d "$1" ] || return 0
	(cd "$1" && find . -type d | LC_ALL=C sort && find . -type f -exec cksum {} + | LC_ALL=C sort)
}

reset() {
	rm -rf "$place" "$mark"
	mkdir "$place"
	[ "$old" = none ] || cp -R "$old" "$place/out"
}

# Runs the command with the variables of the first argument set for it alone.
run() {
	vars=$1
	shift
	n=$#
	while [ "$n" -gt 0 ]; do
		word=$1
		shift
		[ "$word" = @OUT@ ] && word=$place/out
		set -- "$@" "$word"
		n=$((n - 1))
	done
	# shellcheck disable=SC2086
	env $vars ASAN_OPTIONS=verify_asan_link_order=0 "$@" >"$area/stdout" 2>"$area/stderr"
}

complain() {
	echo "crash_sweep: $*" >&2
	echo "there is:" >&2
	find "$place" >&2
	cat "$area/stderr" >&2
	exit 1
}

nothing_else() {
	found=$(ls -A "$place")
	[ -z "$found" ] || [ "$found" = out ] || complain "$1: left over: $found"
}

always=
[ -z "${FAULT_ALWAYS:-}" ] || always="FAULT_ALWAYS=$FAULT_ALWAYS FAULT_ALWAYS_ERRNO=$FAULT_ALWAYS_ERRNO"
unset FAULT_ALWAYS FAULT_ALWAYS_ERRNO

reset
before=$(describe "$place/out")
run "A=1" "$@" || complain "the command fails without a fault"
nothing_else "without a fault"
after=$(describe "$place/out")
[ "$before" != "$after" ] || complain "the command changes nothing"

check_failure() {
	state=$(describe "$place/out")
	if [ "$2" -eq 0 ]; then
		[ "$state" = "$after" ] || complain "$1: it says that all is well, and the new folder is not there"
	else
		[ "$state" = "$before" ] || complain "$1: exit status $2, and the old state is not there"
		[ -s "$area/stderr" ] || complain "$1: it fails without a word"
	fi
	nothing_else "$1"
}

# Inode and name of each file that the journal speaks of. The names are kept for when the journal is gone.
list_finished() {
	[ ! -e "$place/.out.tenon-journal" ] || sed -e 1d -e '/^\//d' "$place/.out.tenon-journal" >"$area/finished"
	[ "$1" = "$place/out" ] || [ -e "$place/.out.tenon-journal" ] || : >"$area/finished"
	while read -r name; do
		ls -i "$1/$name" | sed 's| .*/| |'
	done <"$area/finished"
}

check_kill() {
	state=$(describe "$place/out")
	if [ "$state" != "$before" ] && [ "$state" != "$after" ]; then
		[ -n "$always" ] && [ -z "$state" ] && [ "$(describe "$place/.out.tenon-old")" = "$before" ] &&
			[ "$(describe "$place/.out.tenon-part")" = "$after" ] ||
			complain "$1: neither the old state nor the new one"
	fi
	if [ "$state" = "$after" ] && [ "$old" = none ]; then
		nothing_else "$1"
		return
	fi
	shift
	finished=$(list_finished "$place/.out.tenon-part")
	[ -z "${RESUME:-}" ] || set -- "$@" --resume
	run "A=1 LD_PRELOAD=$faultfs $always" "$@" || complain "the command fails after a kill"
	[ "$(describe "$place/out")" = "$after" ] || complain "another result after a kill"
	[ -z "${RESUME:-}" ] || [ "$(list_finished "$place/out")" = "$finished" ] || complain "a finished file was written again"
	[ -z "$finished" ] || resumed=$((resumed + 1))
	nothing_else "run again after a kill"
}

changing='pwrite pwritev write fsync fdatasync rename renameat2 fallocate ftruncate mkdir'
sweep() { # code, calls, command
	code=$1 which=$2
	shift 2
	at=1
	while :; do
		reset
		# spaces in a value: the list travels through the environment of this shell
		FAULT_CALLS=$which
		export FAULT_CALLS
		run "LD_PRELOAD=$faultfs FAULT_N=$at FAULT_ERRNO=$code FAULT_MARK=$mark $always" "$@"
		status=$?
		unset FAULT_CALLS
		[ -e "$mark" ] || break
		what="call $at with errno $code"
		if [ "$code" -eq 0 ]; then
			[ "$status" -eq 137 ] || complain "$what: exit status $status, it should have been killed"
			check_kill "$what" "$@"
		else
			[ "$status" -lt 126 ] || complain "$what: exit status $status"
			check_failure "$what" "$status"
		fi
		runs=$((runs + 1))
		at=$((at + ${TEST_STEP:-1}))
	done
	[ "$at" -gt 1 ] || complain "no call was seen; is faultfs loaded?"
}

sweep 28 "$changing" "$@"
sweep 5 "$changing" "$@"
sweep 0 "$changing unlink rmdir" "$@"
[ -z "${RESUME:-}" ] || [ "$resumed" -gt 1 ] || complain "no run was taken up again"
echo "$runs runs, $resumed taken up again"
