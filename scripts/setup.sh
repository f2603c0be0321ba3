#!/bin/sh
# Installs the Debian packages that are missing. usage: setup.sh build|test
# Does nothing, and needs no network, when all are there.
set -eu

build="gcc libc6-dev cmake ninja-build pkg-config libjansson-dev libpcre2-dev liblapack-dev libutf8proc-dev libedit-dev"
test="$build g++ libcmocka-dev clang-14 libclang-rt-14-dev universal-ctags xz-utils binutils"

case "${1:-}" in
build) wanted=$build ;;
test) wanted=$test ;;
*) echo "usage: setup.sh build|test" >&2; exit 2 ;;
esac

if ! command -v dpkg-query >/dev/null; then
	echo "setup: not a Debian system; needed, under your system's names: $wanted" >&2
	exit 0
fi

missing=
for package in $wanted; do
	case "$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null)" in
	ii*) ;;
	*) missing="$missing $package" ;;
	esac
done
[ -n "$missing" ] || exit 0

sudo=
if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null || { echo "setup: run as root, or install:$missing" >&2; exit 1; }
	sudo=sudo
fi
echo "setup: installing$missing"
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get -qq update
# shellcheck disable=SC2086
$sudo apt-get -qq install --yes --no-install-recommends $missing >/dev/null
echo "setup: done"
