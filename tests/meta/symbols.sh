#!/bin/sh
# symbols.sh shared LIBTENON_SO    what it exports begins with tn_, and is declared TN_API; what it needs is libc, libm,
#                                  pthreads , jansson, pcre2, utf8proc or LAPACK
# symbols.sh static LIBTENON_A     what it defines for the linker begins with tn_
set -eu
kind=$1 library=$2 include=${3:-}
case $kind in
shared)
	bad=$(nm -D --defined-only "$library" | awk '$3 !~ /^tn_/ { print $3 }')
	[ -z "$bad" ] || { echo "exported without tn_: $bad"; exit 1; }
	area=$(mktemp -d "${TMPDIR:-/tmp}/tenon-symbols-XXXXXX")
	trap 'rm -rf "$area"' EXIT
	nm -D --defined-only "$library" | awk '{ print $3 }' | LC_ALL=C sort -u >"$area/exported"
	sed '/^#/d' "$include"/tenon/*.h | tr '\n' ' ' | grep -o 'TN_API [^;{(]*(' |
		sed 's/ *($//; s/.*[ *]//' | LC_ALL=C sort -u >"$area/declared"
	difference=$(diff "$area/exported" "$area/declared" || true)
	[ -z "$difference" ] || { echo "exported (<) against declared TN_API (>):"; echo "$difference"; exit 1; }
	# undefined symbols carry the version of glibc; those of jansson, pcre2, utf8proc and LAPACK (d..._) have none
	bad=$(nm -D --undefined-only "$library" | awk '
		$1 == "w" || $NF ~ /@GLIBC_/ || $NF ~ /^jsonp?_/ || $NF ~ /^pcre2_.*_8$/ || $NF ~ /^utf8proc_/ || $NF ~ /^d[a-z0-9]*_$/ { next }
		{ print $NF }')
	[ -z "$bad" ] || { echo "needed, and from no library that may be: $bad"; exit 1; }
	bad=$(readelf -d "$library" | sed -n 's/.*NEEDED.*\[\(.*\)\].*/\1/p' |
		grep -vE '^(lib(c|m|pthread|jansson|pcre2-8|utf8proc|lapack|blas|gcc_s)\.so|ld-linux)' || true)
	[ -z "$bad" ] || { echo "needs $bad"; exit 1; }
	;;
static)
	bad=$(nm --defined-only --extern-only "$library" 2>/dev/null |
		awk 'NF == 3 && $3 !~ /^tn_/ { print $3 }')
	[ -z "$bad" ] || { echo "global without tn_: $bad"; exit 1; }
	;;
*) exit 2 ;;
esac
