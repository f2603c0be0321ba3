#!/bin/sh
# The base and two adapters, swapped in, say what PEFT says with them (tests/sample/data/golden.json).
# swap.sh PROGRAM EXAMPLES GOLDEN
set -eu
export LSAN_OPTIONS=detect_leaks=0 # the program leaves what it has to the system
cd "$2"
"$1" base "Tell me a story about Lily the cat." adapters/pirate adapters/robot | while IFS= read -r line; do
	text=${line#*: }
	printf '%s\n' "$text"
	grep -qF "\"text\": \"$text" "$3" || grep -qF "\"text\":\"$text" "$3" || { echo "that is not in $3"; exit 1; }
done
