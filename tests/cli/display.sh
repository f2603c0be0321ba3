# Names that would command a terminal: an escape, DEL, a line of its own, U+009B. In JSON they are whole.
header='{"a\u001b[2Jb\u007f":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"c\nd\u009b\u00e9":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}'
st() { # FILE DATA: the header's length as 8 bytes, the header, the data
	printf "\\$(printf %o $((${#header} % 256)))\\$(printf %o $((${#header} / 256)))\\0\\0\\0\\0\\0\\0%s%s" "$header" "$2" >"$1"
}
st f.safetensors xy
try tenon inspect f.safetensors
tenon inspect --json f.safetensors | grep '"name"'
st short.safetensors x
try tenon inspect short.safetensors
esc=$(printf '\033[31m')
bad=$(printf 'no\377\303\251where')
# try prints the command line, and these would not survive that
try2() { "$@" 2>&1; echo "= $?"; }
try2 tenon inspect "$bad$esc"
try2 tenon inspect --json "$bad$esc"
try2 tenon fuse "--$esc"
tenon "$esc" 2>&1 | head -n 1
st "$esc.safetensors" xy
tenon inspect "$esc.safetensors" | head -n 1
