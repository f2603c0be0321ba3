# Several adapters as one: their sum, which is fused as they are, and PEFT's other types.
digits() { sed 's/\("kept": 0\.[0-9]\{4\}\)[0-9]*/\1/'; }
clean() { sed 's/in [0-9.]* s ([^)]*)/in X s/'; }
try tenon combine --model examples/base --adapter-path examples/adapters/pirate:0.75 --adapter-path examples/adapters/whisper:-0.5 --save-path sum
grep -e '"r"' -e lora_alpha -e pattern -e target_modules sum/adapter_config.json
tenon fuse -q --model examples/base --adapter-path examples/adapters/pirate:0.75 --adapter-path examples/adapters/whisper:-0.5 --save-path parts
try tenon verify examples/base sum parts | clean
try tenon combine --model examples/base --adapter-path examples/adapters/pirate --adapter-path examples/adapters/whisper -o mlx --rank 8 --dialect mlx --dtype bfloat16
cat mlx/adapter_config.json && echo
try tenon combine --model examples/base --adapter-path examples/adapters/pirate --adapter-path mlx:0.5 -o both --energy 0.9 -q
for type in svd linear ties dare_linear dare_ties magnitude_prune ties_svd dare_linear_svd dare_ties_svd magnitude_prune_svd; do
	density="--density 0.5"
	case $type in svd|linear) density= ;; esac
	try tenon combine --model examples/base --adapter-path examples/adapters/pirate --adapter-path examples/adapters/whisper:0.5 --save-path "$type" --combination-type "$type" $density | tail -n 2
done
try tenon combine --model examples/base --adapter-path examples/adapters/pirate --adapter-path examples/adapters/whisper --dry-run --combination-type svd --json | digits | sed '/layers\.[1-9]/d'
echo "--- with eight threads the same bytes, with another seed others"
for seed in 0 1; do
	tenon combine -q --model examples/base --adapter-path examples/adapters/pirate --adapter-path examples/adapters/whisper:0.5 --save-path "seed$seed" --combination-type dare_ties_svd --density 0.5 --threads 8 --seed $seed
	cmp -s dare_ties_svd/adapter_model.safetensors "seed$seed/adapter_model.safetensors" && echo same || echo others
done
echo "--- refused"
try tenon combine --model examples/base --adapter-path examples/adapters/pirate --adapter-path examples/adapters/robot --save-path e
try tenon combine --model examples/base --adapter-path sum --adapter-path examples/adapters/whisper --save-path e --combination-type linear
try tenon combine --model examples/base --adapter-path sum --adapter-path sum --save-path e
try tenon combine --model examples/base --adapter-path sum:much --save-path e
try tenon combine --model examples/base --adapter-path sum --save-path e --combination-type dare_ternary
try tenon combine --model examples/base --adapter-path sum --save-path e --combination-type ties
try tenon combine --model examples/base --adapter-path sum --save-path e --density 0.5
try tenon combine --model examples/base --adapter-path sum --save-path e --combination-type ties --density 0
try tenon combine --model examples/base --adapter-path sum --save-path e --combination-type ties --density 0.5 --majority-sign-method most
try tenon combine --model examples/base --adapter-path sum --save-path e --rank 18446744073709551615
for type in linear magnitude_prune ties_svd; do
	density="--density 0.5"
	case $type in linear) density= ;; esac
	try tenon combine --model examples/base --adapter-path examples/adapters/pirate:1e300 --adapter-path examples/adapters/whisper --save-path e --combination-type $type $density
done
try tenon combine --model examples/base --adapter-path sum --save-path sum
try tenon combine --model examples/base --adapter-path mlx --adapter-path sum:0.5 --save-path sum --force
try tenon combine --model examples/base --save-path e
try tenon combine --adapter-path sum --save-path e
try tenon combine --model examples/base --adapter-path sum
test -e e || echo "nothing was written"
