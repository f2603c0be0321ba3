# Configurations as Python leaves them: what jansson cannot hold comes back as it stood.
cp -rL examples/base base && chmod -R u+w base
sed -i '1s/{/{ "time_step_limit": [0.0, Infinity], "low": -Infinity, "none": NaN, "seed": 18446744073709551616,/' base/config.json
numbers() { grep -E '0\.0|Infinity|NaN|1844674407' "$1" | tr -d '\n'; echo; }
try tenon fuse -q --model base --adapter-path examples/adapters/pirate --save-path fused
cmp base/config.json fused/config.json
try tenon quantize -q --model base --save-path q4
numbers q4/config.json
try tenon dequantize -q --model q4 --save-path back
numbers back/config.json
try tenon convert --quiet --hf-path base --mlx-path mlx
numbers mlx/config.json
echo "--- a byte order mark"
printf '\357\273\277{}' >base/config.json
try tenon fuse -q --model base --adapter-path examples/adapters/pirate --save-path o
