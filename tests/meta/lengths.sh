#!/bin/sh
# No source file over 600 lines, no function over 60 lines; exceptions stand in lengths.allow with their reason. No line of C over
# 132 columns but in tests, whose tables are easier to read in one line a case.
# lengths.sh SOURCE_ROOT
set -eu
cd "$1"
command -v ctags >/dev/null && ctags --version | grep -q Universal ||
	{ echo "universal-ctags is not here: not run"; exit 77; }
list=$(mktemp "${TMPDIR:-/tmp}/tenon-lengths-XXXXXX")
trap 'rm -f "$list"' EXIT
for folder in src include tools tests bench examples; do
	[ ! -d "$folder" ] || find "$folder" \( -name '*.[ch]' -o -name '*.def' -o -name '*.sh' \) >>"$list"
done
bad=0
allowed() { # kind, name
	awk -v kind="$1" -v name="$2" '$1 == kind && $2 == name && NF > 2 { found = 1 } END { exit !found }' \
		tests/meta/lengths.allow
}
while read -r file; do
	lines=$(wc -l <"$file")
	if [ "$lines" -gt 600 ] && ! allowed file "$file"; then
		echo "$file has $lines lines, at most 600 are wanted"
		bad=1
	fi
done <"$list"
grep '\.[ch]$' "$list" | grep -v '^tests/' | while read -r file; do
	expand -t 8 "$file" | awk -v file="$file" 'length > 132 { print file ":" NR ": " length " columns, at most 132 are wanted" }'
done >"$list.wide"
if [ -s "$list.wide" ]; then
	cat "$list.wide"
	bad=1
fi
rm -f "$list.wide"
grep '\.c$' "$list" | ctags -L - --languages=C --kinds-C=f --fields=+ne -f - 2>/dev/null |
	awk -F'\t' '{
		for (i = 4; i <= NF; i++) {
			if ($i ~ /^line:/) from = substr($i, 6)
			if ($i ~ /^end:/) to = substr($i, 5)
		}
		if (to - from + 1 > 60) print $2 ":" $1, to - from + 1
	}' >"$list.long"
while read -r name lines; do
	allowed function "$name" || { echo "$name has $lines lines, at most 60 are wanted"; bad=1; }
done <"$list.long"
rm -f "$list.long"
exit $bad
