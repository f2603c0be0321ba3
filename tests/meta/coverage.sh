#!/bin/sh
# Every function that docs/coverage.md names is declared in include/tenon, every row has a test, and every test that the
# coverage pages name is in the file that they name.
# coverage.sh SOURCE_ROOT
set -eu
cd "$1"
rows=$(mktemp "${TMPDIR:-/tmp}/tenon-coverage-XXXXXX")
trap 'rm -f "$rows"' EXIT
bad=0
lacks() {
	echo "$1"
	bad=1
}
# shellcheck disable=SC2016 # backticks of Markdown
quoted() { printf '%s\n' "$1" | grep -oE '`[^`]*`' | tr -d '`'; }

# | item | functions | tests |
grep '^|' docs/coverage.md | grep -v -e '^|---' -e '^| item |' >"$rows"
[ "$(wc -l <"$rows")" -ge 60 ] || lacks "docs/coverage.md has lost its rows"
while IFS='|' read -r _ item functions tests _; do
	for name in $(quoted "$functions" | grep -oE '\b(tn|TN)_[A-Za-z0-9_]+'); do
		grep -rqwE "$name" include/tenon || lacks "$item: include/tenon has no $name"
	done
	file=
	for name in $(quoted "$tests"); do
		case $name in
		*/*) file=tests/$name
		     [ -f "$file" ] || lacks "$item: there is no $file" ;;
		*) grep -qw "$name" "$file" || lacks "$item: $file has no test $name" ;;
		esac
	done
	[ -n "$file" ] || lacks "$item: no test"
done <"$rows"

# | number | test of the seed | file |: the name stands in the file; else it is said why not
cat docs/coverage-lora.md docs/coverage-quant.md | grep -E '^\| [0-9]+ \|' >"$rows"
while IFS='|' read -r _ _ name where _; do
	name=$(quoted "$name")
	file=$(printf '%s\n' "$where" | grep -oE '[a-z_/]+\.c\b' | head -n 1 || :)
	case $where in
	*differs*) continue ;;
	esac
	if [ -z "$file" ]; then
		for other in $(quoted "$where"); do
			case $other in
			tn_*) grep -rqw "$other" include/tenon || lacks "$name: there is no $other" ;;
			*) grep -rqw "$other" tests || lacks "$name: no test has $other" ;;
			esac
		done
		continue
	fi
	path=$(find tests -path "tests/*$file" | head -n 1)
	[ -n "$path" ] || lacks "$name: there is no test $file"
	[ -z "$path" ] || grep -qw "$name" "$path" || lacks "$name: $path does not have it"
done <"$rows"
exit $bad
