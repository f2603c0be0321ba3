# What the first joint does not apply is refused by name, and nothing is written.
fuse() { tenon fuse --isa portable -q --model "$1" --adapter-path "$2" --save-path out; }
cp -r examples/adapters/pirate a && chmod -R u+w a
try fuse examples/base nowhere
try fuse nowhere examples/adapters/pirate
try fuse mlx-community/Llama-3.2-1B-4bit examples/adapters/pirate
try fuse examples/base someone/lora
try fuse examples/base examples/lora
try fuse examples/base examples/base/config.json
rm a/adapter_model.safetensors
try fuse examples/base a
echo '{"r": 8' >a/adapter_config.json
try fuse examples/base a
ls -A
echo "--- paths that JSON cannot hold, where JSON is asked for: before anything is written"
odd=$(printf 'odd\377')
cp -r examples/base "$odd"
A=examples/adapters/pirate
{
	try tenon fuse --model "$odd" --adapter-path $A --save-path out --receipt out.json
	try tenon fuse --model "$odd" --adapter-path $A --save-path out --json
	try tenon fuse --model examples/base --adapter-path $A --save-path "out$odd" --receipt out.json
	try tenon quantize --model "$odd" --save-path out --receipt out.json
	try tenon quantize --model "$odd" --save-path out --json
	ls -A
	echo "--- files that may not grow"
	(ulimit -f 100 && try tenon fuse --model examples/base --adapter-path $A --save-path out)
	ls -A
	echo "--- no standard input"
	try tenon tokenize --model examples/base <&-
	try tenon render --model examples/base --messages - <&-
} | tr '\377' '?'
echo "--- names that no module has"
name=$(printf '%01200d' 0)
header=$(printf '{"base_model.model.%s.lora_A.weight":{"dtype":"F32","shape":[1,192],"data_offsets":[0,768]},"base_model.model.%s.lora_B.weight":{"dtype":"F32","shape":[192,1],"data_offsets":[768,1536]}}' "$name" "$name")
mkdir long
echo '{"peft_type": "LORA", "r": 1, "target_modules": "all-linear"}' >long/adapter_config.json
{
	printf "\\$(printf %o $((${#header} % 256)))\\$(printf %o $((${#header} / 256)))\\0\\0\\0\\0\\0\\0%s" "$header"
	head -c 1536 /dev/zero
} >long/adapter_model.safetensors
try fuse examples/base long
echo "--- other types of PEFT"
for type in VERA lokr IA3 SHIRA PREFIX_TUNING XLORA "" LOHA_LOKR 7; do
	echo "{\"peft_type\": \"$type\", \"r\": 8}" >long/adapter_config.json
	try fuse examples/base long
done
try tenon doctor examples/base long
