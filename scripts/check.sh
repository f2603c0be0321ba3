#!/bin/sh
# Runs named checks, one after another, and stops at the first that fails. usage: check.sh NAME...
set -eu
cd "$(dirname "$0")/.."
export CTEST_PARALLEL_LEVEL="${CTEST_PARALLEL_LEVEL:-2}"

configure() {
	cmake --preset "$1" >"build-$1.log" 2>&1 || { cat "build-$1.log"; exit 1; }
	rm -f "build-$1.log"
}

build() { # preset
	echo "== $1: build"
	configure "$1"
	cmake --build "build-$1"
}

run() { # preset, further ctest arguments
	preset=$1
	shift
	build "$preset"
	echo "== $preset: run"
	ctest --test-dir "build-$preset" --output-on-failure --no-tests=error "$@"
}

for check in "$@"; do
	case "$check" in
	test) run test ;;
	asan) ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1 run asan ;;
	tsan) run tsan -L 'unit|threads' ;;
	clang) build clang ;;
	arm) sh scripts/setup.sh arm && run arm -L 'unit|kernels|adapters|conformance' ;;
	fuzz) build fuzz && sh scripts/fuzz.sh build-fuzz 60 ;;
	--help)
		echo "test   the suite, gcc"
		echo "asan   the suite under AddressSanitizer and UBSan"
		echo "tsan   unit and thread tests under ThreadSanitizer"
		echo "clang  a build with clang 14, warnings are errors"
		echo "arm    an AArch64 build; unit, kernel, adapter and conformance tests under an emulator"
		echo "fuzz   every fuzz target for 60 seconds"
		;;
	*) echo "check.sh: there is no check '$check'; try --help" >&2; exit 2 ;;
	esac
done
echo "== all well: $*"
