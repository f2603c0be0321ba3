# An adapter with lower ranks, by rank and by what is kept, in both dialects.
digits() { sed 's/\("kept": 0\.[0-9]\{4\}\)[0-9]*/\1/'; }
try tenon resize --model examples/base --adapter-path examples/adapters/pirate --save-path a --rank 2
grep -e '"r"' -e lora_alpha -e rank_pattern -e alpha_pattern -e target_modules a/adapter_config.json
try tenon inspect a | tail -n 4
try tenon resize --model examples/base --adapter-path examples/adapters/pirate -o b --energy 0.9 --dialect mlx --dtype bfloat16
cat b/adapter_config.json && echo
try tenon doctor examples/base b --for mlx | tail -n 3
try tenon resize --model examples/base --adapter-path examples/adapters/pirate --dry-run --energy 0.7 --rank 3 --json | digits | sed '/layers\.[1-9]/d'
echo "--- a rank that is no less changes no number"
try tenon resize --model examples/base --adapter-path a --rank 64 --save-path c -q
cmp a/adapter_model.safetensors c/adapter_model.safetensors && echo same
echo "--- with eight threads the same bytes"
tenon resize -q --model examples/base --adapter-path examples/adapters/pirate --save-path d --rank 2 --threads 8
cmp a/adapter_model.safetensors d/adapter_model.safetensors && echo same
echo "--- refused"
try tenon resize --model examples/base --adapter-path a --rank 1 --save-path c
try tenon resize --model examples/base --adapter-path a --rank 1 --save-path c --force -q
try tenon resize --model examples/base --adapter-path c --rank 1 --save-path ./c --force
try tenon resize --model examples/base --adapter-path c/adapter_model.safetensors --rank 1 --save-path c --force
try tenon resize --model examples/base --adapter-path a --save-path e
try tenon resize --model examples/base --adapter-path a --save-path e --rank 0
try tenon resize --model examples/base --adapter-path a --save-path e --rank 18446744073709551615
try tenon resize --model examples/base --adapter-path a --save-path e --rank 1e3
try tenon resize --model examples/base --adapter-path a --save-path e --energy 0
try tenon resize --model examples/base --adapter-path a --save-path e --energy 1
try tenon resize --model examples/base --adapter-path a --save-path e --rank 2 --dialect kohya
try tenon resize --model examples/base --adapter-path a --save-path e --rank 2 --dtype int8
try tenon resize --model examples/base --rank 2 --save-path e
try tenon resize --adapter-path a --rank 2 --save-path e
try tenon resize --model examples/base --adapter-path a --rank 2
try tenon resize --model examples/base --adapter-path nowhere --rank 2 --save-path e
test -e e || echo "nothing was written"
