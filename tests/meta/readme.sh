#!/bin/sh
# What README.md shows of commands on the sample is what they print, but for times. usage: readme.sh TENON ROOT
set -eu
tenon=$1 root=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
ln -s "$root/examples" examples
mkdir OUT
timeless() { sed 's/ in [0-9.]* s (.*) -> / -> /'; }
sed -n '/^\$ tenon /,/^```/p' "$root/README.md" | grep -v '^```' | timeless >shown
grep '^\$ tenon ' shown | while read -r _ _ arguments; do
	[ ! -e said ] || echo
	echo "\$ tenon $arguments"
	"$tenon" $arguments # in words
	: >said
done 2>&1 | timeless >printed
[ -s shown ]
diff -u shown printed
