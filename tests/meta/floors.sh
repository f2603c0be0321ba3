#!/bin/sh
# A file includes its own floor and lower ones (src/FLOORS); tools/ includes tenon/ only; public headers include tenon/.
# floors.sh SOURCE_ROOT
set -eu
cd "$1"
folders="src include"
[ ! -d tools ] || folders="$folders tools"
# shellcheck disable=SC2086
awk '
FNR == 1 && FILENAME == "src/FLOORS" { reading = 1 }
FILENAME == "src/FLOORS" { if ($1 ~ /^[0-9]+$/) floor[$2] = $1; next }
FNR == 1 {
	files++
	split(FILENAME, part, "/")
	if (part[1] == "src" && !(part[2] in floor)) complain("is in no folder of src/FLOORS")
}
/^[ \t]*#[ \t]*include[ \t]*"/ {
	name = $0
	sub(/^[^"]*"/, "", name)
	sub(/".*$/, "", name)
	n = split(name, to, "/")
	if (name ~ /^tenon\/[a-z_]+\.h$/) next
	if (part[1] == "include") { complain("includes " name ", and public headers include tenon/ only"); next }
	if (part[1] == "tools") {
		if (n > 1) complain("includes " name ", and tools include tenon/ and their own headers only")
		next
	}
	if (n == 1 && name == "isa_enabled.h" && part[2] == "kernels") next # made by the build
	if (n < 2 || !(to[1] in floor)) complain("includes " name ", which names no floor")
	else if (floor[to[1]] > floor[part[2]])
		complain("is on floor " floor[part[2]] " and includes " name " of floor " floor[to[1]])
}
function complain(what) { print FILENAME ":" FNR ": " what; bad++ }
END {
	if (files < 20) { print "only " files " files were seen"; bad++ }
	exit bad != 0
}' src/FLOORS $(find $folders \( -name '*.[ch]' -o -name '*.def' \) | LC_ALL=C sort)
