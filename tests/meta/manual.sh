#!/bin/sh
# Every verb of the command stands in the manual page, and every long option of a verb's help in a section of options
# that names the verb, or in that of the common ones.
# manual.sh TENON MANUAL_PAGE
set -eu
tenon=$1
# as the reader sees it: \- is -, and changes of font are nothing
page=$(sed -e 's/\\-/-/g' -e 's/\\f[A-Z]//g' "$2")
bad=0
lacks() {
	echo "$1"
	bad=1
}
options() { grep -oE -e '--[a-z][a-z-]*' | LC_ALL=C sort -u; }
# The sections of options of which one word of the heading is VERB, or COMMON.
sections() {
	printf '%s\n' "$page" | awk -v verb="$(echo "$1" | tr a-z A-Z)" '
		/^\.SH / { words = " " $0 " "; gsub(/[,"]/, " ", words)
			   wanted = words ~ / OPTIONS / && (words ~ " " verb " " || words ~ / COMMON /) }
		wanted'
}
check_options() { # VERB, the arguments that ask for its help
	found=$("$tenon" $2 | options)
	[ -n "$found" ] || lacks "tenon $2 names no option"
	described=$(sections "$1" | options)
	for option in $found; do
		printf '%s\n' "$described" | grep -qx -e "$option" || lacks "no section of options for '$1' has $option"
	done
}
verbs=$("$tenon" --help | sed -n '/^Verbs:/,/^$/ s/^  \([a-z]*\) .*/\1/p')
[ -n "$verbs" ] || lacks "tenon --help names no verb"
check_options COMMON --help
for verb in $verbs; do
	printf '%s\n' "$page" | grep -qE -e "^\\.B tenon $verb( |\$)" || lacks "the synopsis has no tenon $verb"
	printf '%s\n' "$page" | grep -qx -e "\\.B $verb" || lacks "the verbs have no $verb"
	check_options "$verb" "$verb --help"
done
exit $bad
