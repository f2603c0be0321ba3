fuse() { tenon fuse --isa portable -q --model "$1" --adapter-path "$2" --save-path "$3"; }
fuse examples/base examples/adapters/pirate good
try tenon verify examples/base examples/adapters/pirate good
echo "--- still the base"
try tenon verify examples/base examples/adapters/pirate examples/base
echo "--- another adapter"
tenon verify examples/base examples/adapters/whisper good | awk '{print $1}' | sort | uniq -c
echo "--- one byte of a copied tensor, one of a merged one"
cp -r good bad
printf '\377' | dd of=bad/model.safetensors bs=1 seek=7001 conv=notrunc 2>/dev/null
printf '\377\177' | dd of=bad/model.safetensors bs=1 seek=460000 conv=notrunc 2>/dev/null
try tenon verify examples/base examples/adapters/pirate bad
echo "--- a field of config.json that decides what is computed, and one that does not"
cp -r good fields
sed 's/"num_attention_heads": [0-9]*/"num_attention_heads": 2/; s/"bos_token_id": [0-9]*/"bos_token_id": 9/' good/config.json > fields/config.json
try tenon verify examples/base examples/adapters/pirate fields
rm fields/config.json
try tenon verify examples/base examples/adapters/pirate fields
echo "--- cut short"
truncate -s 1000000 bad/model.safetensors
try tenon verify examples/base examples/adapters/pirate bad
