#!/bin/sh
# Runs one command-line test and compares what it prints with its golden text. usage: run.sh NAME [--set]
# TENON, EXAMPLES and TOOLS come from the build. A test runs in a fresh folder; `try COMMAND...` prints the command's
# output, its messages and its exit status.
set -u
here=$(cd "$(dirname "$0")" && pwd)
name=$1
work=$(mktemp -d) said=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work" "$said"' EXIT
cd "$work" || exit 1
ln -s "$EXAMPLES" examples

try() {
	echo "\$ $*"
	"$@" >"$said/out" 2>"$said/err"
	status=$?
	cat "$said/out"
	sed 's/^/! /' "$said/err"
	echo "= $status"
}
tenon() { "$TENON" "$@"; }

(. "$here/$name.sh") >"$said/actual" 2>&1
if [ "${2:-}" = --set ]; then
	cp "$said/actual" "$here/golden/$name.txt"
	exit 0
fi
diff -u "$here/golden/$name.txt" "$said/actual"
