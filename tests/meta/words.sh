#!/bin/sh
# In tracked sources nothing is left for later, every C file names its licence, file names are unique, and no number follows
# a locale.
# words.sh SOURCE_ROOT
set -eu
cd "$1"
git rev-parse --git-dir >/dev/null 2>&1 || { echo "not a git checkout: not run"; exit 77; }
# the words are put together here, so that this file does not hold them
words="TO""DO|FIX""ME|X""XX"
found=$(git grep -nE "\\b($words)\\b" -- '*.[ch]' '*.def' '*.sh' '*.cmake' '*.md' '*CMakeLists.txt' || true)
[ -z "$found" ] || { echo "$found"; exit 1; }
bad=$(git ls-files '*.c' | while read -r file; do
	[ ! -f "$file" ] || head -1 "$file" | grep -q SPDX-License-Identifier || echo "$file"
done)
[ -z "$bad" ] || { echo "no SPDX line: $bad"; exit 1; }
bad=$(git ls-files 'src/*.[ch]' 'tools/*.[ch]' | sed 's|.*/||' | LC_ALL=C sort | uniq -d)
[ -z "$bad" ] || { echo "two files of one name: $bad"; exit 1; }
# strtod and vsnprintf follow the locale of the program that uses the library
bad=$(git grep -nwE 'strtod|vsnprintf' -- 'src/*.c' | grep -v '^src/base/numeral.c' || true)
[ -z "$bad" ] || { echo "base/numeral.h has these: $bad"; exit 1; }
bad=$(git grep -nE '[^_]snprintf\(.*%[-+ 0-9.*]*[gfe]' -- 'src/*.c' | grep -v '^src/base/numeral.c' || true)
[ -z "$bad" ] || { echo "base/numeral.h has these: $bad"; exit 1; }
