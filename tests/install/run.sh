#!/bin/sh
# usage: run.sh BUILD CC
set -eu
build=$1 cc=$2
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cmake --install "$build" --prefix "$work/root" >/dev/null

mkdir "$work/project"
cat >"$work/project/CMakeLists.txt" <<EOF
cmake_minimum_required(VERSION 3.25)
project(consumer C)
find_package(tenon 0.1 REQUIRED)
foreach(kind static shared)
  add_executable(consumer_\${kind} $here/consumer.c)
  target_link_libraries(consumer_\${kind} PRIVATE tenon::tenon_\${kind})
endforeach()
EOF
CC=$cc cmake -G Ninja -S "$work/project" -B "$work/b" -DCMAKE_PREFIX_PATH="$work/root" >/dev/null
cmake --build "$work/b" >/dev/null
version=$("$work/b/consumer_static")
[ "$("$work/b/consumer_shared")" = "$version" ]

pc=$(dirname "$(find "$work/root" -name tenon.pc)")
export PKG_CONFIG_PATH="$pc"
# shellcheck disable=SC2046
"$cc" "$here/consumer.c" $(pkg-config --define-prefix --cflags --libs tenon) -o "$work/dynamic"
[ "$(LD_LIBRARY_PATH="$(dirname "$pc")" "$work/dynamic")" = "$version" ]
# shellcheck disable=SC2046
"$cc" "$here/consumer.c" $(pkg-config --cflags tenon) "$(dirname "$pc")/libtenon.a" $(pkg-config --libs jansson libpcre2-8 lapack libutf8proc) \
	-lm -lpthread -o "$work/static"
[ "$("$work/static")" = "$version" ]
[ "$("$work/root/bin/tenon" --version)" = "tenon $version" ]
echo "installed $version: CMake and pkg-config, static and shared"
