#!/bin/sh
# Writes the first corpora of fuzz_st_header and fuzz_gguf: small files near every rule. Files that the fuzzer found are
# added by hand, named for what they showed.
set -eu
cd "$(dirname "$0")/corpus/st_header"

# st NAME HEADER DATA: the length word, the header, the data; printf escapes in all three.
st() {
	printf "$2" >header.tmp
	n=$(wc -c <header.tmp)
	{
		printf "\\$(printf %03o $((n % 256)))\\$(printf %03o $((n / 256 % 256)))\\0\\0\\0\\0\\0\\0"
		cat header.tmp
		printf "$3"
	} >"$1"
	rm header.tmp
}

one='"dtype":"F32","shape":[1],"data_offsets":[0,4]'
st empty '{}' ''
st one "{\"w\":{$one}}" 'abcd'
st spaces " \\n{ \"w\" : { $one } }  " 'abcd'
st metadata "{\"__metadata__\":{\"format\":\"pt\",\"k\":\"\"},\"w\":{$one}}" 'abcd'
st metadata_null "{\"__metadata__\":null,\"w\":{$one}}" 'abcd'
st metadata_number '{"__metadata__":{"k":1}}' ''
st unknown "{\"w\":{$one,\"x\":{\"y\":[1,-2.5e+3,true,null]},\"\":[]}}" 'abcd'
st escapes '{"\\u0041\\n\\ud83d\\ude00":{"dtype":"U8","shape":[2,1],"data_offsets":[0,2]}}' 'ab'
st lone_surrogate '{"\\ud83d":{"dtype":"U8","shape":[2,1],"data_offsets":[0,2]}}' 'ab'
st utf8 '{"\303\251\342\202\254":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}' 'a'
st not_utf8 '{"\377":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}' 'a'
st order '{"b":{"dtype":"BF16","shape":[2],"data_offsets":[1,5]},"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}' 'abcde'
st zero_sizes '{"b":{"dtype":"F64","shape":[0,7],"data_offsets":[0,0]},"a":{"dtype":"C64","shape":[0],"data_offsets":[0,0]}}' ''
st f4 '{"w":{"dtype":"F4","shape":[2,3],"data_offsets":[0,3]},"v":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[3,6]}}' 'abcdef'
st f4_odd '{"w":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}' 'ab'
st fp8 '{"w":{"dtype":"F8_E4M3FNUZ","shape":[1,1,1],"data_offsets":[0,1]},"v":{"dtype":"F8_E8M0","shape":[1],"data_offsets":[1,2]}}' 'ab'
st twice "{\"w\":{$one},\"w\":{$one}}" 'abcd'
st twice_escaped "{\"w\":{$one,\"\\\\u0064type\":\"F32\"}}" 'abcd'
st hole '{"w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}' 'ab'
st overlap '{"w":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"v":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}' 'abc'
st trailing "{\"w\":{$one}}" 'abcde'
st overflow '{"w":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}}' ''
st number '{"w":{"dtype":"U8","shape":[1e0],"data_offsets":[0,18446744073709551616]}}' 'a'
st nested "{\"w\":{$one,\"x\":$(awk 'BEGIN { for (i = 0; i < 127; i++) printf "["; for (i = 0; i < 127; i++) printf "]" }')}}" 'abcd'
printf '\377\377\377\377\377\377\377\377{}' >length_huge
printf '\001\341\365\005\000\000\000\000{}' >length_over_the_cap
printf '{}' >short

cd ../gguf

u() { # u BYTES NUMBER...: each number, little-endian
	bytes=$1
	shift
	for number; do
		i=0
		while [ $i -lt "$bytes" ]; do
			printf "\\$(printf %03o $((number >> (8 * i) & 255)))"
			i=$((i + 1))
		done
	done
}
text() { u 8 ${#1}; printf %s "$1"; }
setting() { text "$1"; u 4 8; text "$2"; }
head_of() { printf GGUF; u 4 "$1"; u 8 "$2" "$3"; } # VERSION TENSORS SETTINGS
# tensor NAME TYPE OFFSET DIM...
tensor() {
	text "$1"
	type=$2 offset=$3
	shift 3
	u 4 $#
	u 8 "$@"
	u 4 "$type"
	u 8 "$offset"
}
# pad FILE BYTES: zeros up to the next multiple of 32, and so many behind it
pad() { truncate -s $((($(wc -c <"$1") + 31) / 32 * 32 + $2)) "$1"; }
a=blk.0.attn_q.weight.lora_a b=blk.0.attn_q.weight.lora_b

{
	head_of 3 2 4
	setting general.type adapter
	setting general.architecture llama
	setting adapter.type lora
	text adapter.lora.alpha; u 4 6; u 4 1082130432
	tensor $a 0 0 3 2
	tensor $b 1 32 2 4
} >lora
pad lora 48
{ head_of 2 0 0; } >empty
{ head_of 1 0 0; } >version_1
{ head_of 3 1048577 0; } >tensors_over_the_cap
{ head_of 3 1048576 0; } >tensors_without_room
{ head_of 3 0 -1; } >settings_huge
{ head_of 3 1 0; tensor $a 30 0; } >scalar
pad scalar 2
{ head_of 3 1 0; tensor $a 28 0 1 1 1 1; } >four_dimensions
pad four_dimensions 8
{ head_of 3 1 0; tensor $a 0 0 1 1 1 1 1; } >five_dimensions
{ head_of 3 1 0; tensor $a 12 0 256 2; } >quantized
{ head_of 3 1 0; tensor $a 0 0 4294967296 4294967296; } >overflow
{ head_of 3 1 0; tensor $a 0 -32 3 2; } >offset_wraps
{ head_of 3 1 0; tensor $a 0 0 3 2; } >cut_short
{ head_of 3 2 0; tensor $a 0 0 1; tensor $a 0 0 1; } >twice
pad twice 4
{ head_of 3 1 0; tensor '' 0 0 1; } >no_name
pad no_name 4
{ head_of 3 0 1; text general.alignment; u 4 4; u 4 0; } >alignment_0
{ head_of 3 1 1; text general.alignment; u 4 4 64; tensor $a 0 0 1; } >alignment_64
pad alignment_64 64
{ head_of 3 0 1; text adapter.alora.invocation_tokens; u 4 9 4; u 8 2; u 4 1 2; } >invocation
{ head_of 3 0 1; text x; u 4 9 8; u 8 2; text one; text two; } >array_of_texts
{ head_of 3 0 1; text x; u 4 9 12; u 8 -1; } >array_overflow
{ head_of 3 0 1; text x; u 4 9 9; u 8 1; } >array_of_arrays
{ head_of 3 0 1; text x; u 4 13; } >type_unknown
{ head_of 3 0 1; setting general.type a_type_with_more_than_thirty_one_bytes; } >long_text
{ head_of 3 0 1; u 8 -1; printf x; } >key_huge
