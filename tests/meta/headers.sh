#!/bin/sh
# Each public header compiles alone, twice, as C11 and as C++11. headers.sh INCLUDE_FOLDER CC [CXX]
set -eu
include=$1 cc=$2 cxx=${3:-}
area=$(mktemp -d "${TMPDIR:-/tmp}/tenon-headers-XXXXXX")
trap 'rm -rf "$area"' EXIT
for header in "$include"/tenon/*.h; do
	name=tenon/$(basename "$header")
	printf '#include "%s"\n#include "%s"\nextern int here;\n' "$name" "$name" >"$area/alone.c"
	cp "$area/alone.c" "$area/alone.cc"
	"$cc" -std=c11 -Wall -Wextra -pedantic -Werror -I"$include" -fsyntax-only "$area/alone.c" ||
		{ echo "$name is no C11 alone"; exit 1; }
	[ -z "$cxx" ] || "$cxx" -std=c++11 -Wall -Wextra -pedantic -Werror -I"$include" -fsyntax-only "$area/alone.cc" ||
		{ echo "$name is no C++11 alone"; exit 1; }
done
[ -n "$cxx" ] || { echo "no C++ compiler: not run as C++11"; exit 77; }
