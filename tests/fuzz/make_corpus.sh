#!/bin/sh
# Writes the first corpus of fuzz_st_header: small files near every rule. Files that the fuzzer found are added by hand,
# named for what they showed.
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
