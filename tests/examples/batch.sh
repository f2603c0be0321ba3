#!/bin/sh
# Rows with adapters of their own, each as if it were alone, and no two alike. batch.sh PROGRAM EXAMPLES
set -eu
cd "$2"
out=$("$1" base adapters/pirate adapters/robot)
printf '%s\n' "$out"
[ "$(printf '%s\n' "$out" | grep -c 'alone the same$')" = 3 ]
[ "$(printf '%s\n' "$out" | sed 's/.*|y| = //' | sort -u | wc -l)" = 3 ]
