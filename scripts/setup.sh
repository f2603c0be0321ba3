#!/bin/sh
# Installs the Debian packages that are missing. usage: setup.sh build|test|arm
# Does nothing, and needs no network, when all are there.
# arm: a cross compiler and an emulator, and the libraries for AArch64 in build-arm-root, where they meet no others.
set -eu
cd "$(dirname "$0")/.."

build="gcc libc6-dev cmake ninja-build pkg-config libjansson-dev libpcre2-dev liblapack-dev libutf8proc-dev libedit-dev"
test="$build g++ libcmocka-dev clang-14 libclang-rt-14-dev universal-ctags xz-utils binutils"
arm="$test gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user"
arm_libraries="libc6 libgcc-s1 libgfortran5 libjansson4 libjansson-dev libpcre2-8-0 libpcre2-dev liblapack3 liblapack-dev libblas3
	libblas-dev libutf8proc2 libutf8proc-dev libedit2 libedit-dev libbsd0 libmd0 libtinfo6 libcmocka0 libcmocka-dev"

case "${1:-}" in
build) wanted=$build ;;
test) wanted=$test ;;
arm) wanted=$arm ;;
*) echo "usage: setup.sh build|test|arm" >&2; exit 2 ;;
esac

# Unpacks the packages of the other architecture into a folder, with lists of packages of its own: the system's stay as they are.
unpack_arm_libraries() {
	root=$(pwd)/build-arm-root
	[ ! -e "$root/complete" ] || return 0
	echo "setup: unpacking libraries for AArch64 into $root"
	rm -rf "$root"
	mkdir -p "$root/debs/state/lists/partial" "$root/debs/cache/archives/partial"
	cd "$root/debs"
	set -- -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User= -o Dir::State="$PWD/state" \
		-o Dir::State::status=/dev/null -o Dir::Cache="$PWD/cache" -o Acquire::Languages=none
	apt-get "$@" update
	# shellcheck disable=SC2086
	apt-get "$@" download $arm_libraries
	for package in *.deb; do
		dpkg-deb -x "$package" "$root"
	done
	lib=$root/usr/lib/aarch64-linux-gnu
	ln -s lapack/liblapack.so lapack/liblapack.so.3 blas/libblas.so.3 "$lib" # what the system's alternatives would choose
	ln -s lapack-netlib.pc "$lib/pkgconfig/lapack.pc"
	ln -s blas-netlib.pc "$lib/pkgconfig/blas.pc"
	cd "$root"
	rm -r debs
	touch complete
	echo "setup: done"
}

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
if [ -z "$missing" ]; then
	[ "$1" != arm ] || unpack_arm_libraries
	exit 0
fi

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
[ "$1" != arm ] || unpack_arm_libraries
