# --isa portable and -q: the golden text must not depend on the machine or on time
Q=examples/base-mlx-4bit W=examples/adapters/whisper
fuse() { tenon fuse --isa portable --model $Q "$@"; }
try fuse --adapter-path $W --dry-run
try fuse --adapter-path $W:0.0625 --save-path small -q --receipt small.json
grep -c '"survival"' small.json
grep -A4 '"adapters"' small.json
sha256sum small/model.safetensors
cmp $Q/config.json small/config.json && echo same config.json
try tenon verify $Q $W:0.0625 small
tenon verify $Q $W small | sed -n "1p;\$p"

echo "--- nearest loses it, and says so"
try fuse --adapter-path $W:0.0625 --save-path lost -q --rounding nearest
tenon verify $Q $W:0.0625 lost | tail -2
try fuse --adapter-path $W:0.0625 --save-path none -q --rounding nearest --min-survival 0.05
try fuse --adapter-path $W:0.05 --save-path refused -q --rounding nearest --min-survival 0.9
ls -d refused

echo "--- dense, and more bits"
try fuse --adapter-path $W --save-path dense -q --de-quantize
grep -c quantization dense/config.json
try tenon verify $Q $W dense
try fuse --adapter-path $W:0.0625 --save-path more -q --promote-bits 6
grep -A4 '"model.layers.0.mlp.down_proj": {' more/config.json | sed -n 1,5p
try tenon verify $Q $W:0.0625 more

echo "--- two adapters"
try fuse --adapter-path $W:0.25 --adapter-path examples/adapters/pirate:0.5 --save-path two -q
try tenon verify $Q $W:0.25 examples/adapters/pirate:0.5 two
try fuse --adapter-path $W --adapter-path $W/../whisper:0.5 --save-path twice -q
try fuse --adapter-path $W --adapter-path examples/adapters/robot --save-path three -q

echo "--- called wrongly"
try fuse --adapter-path $W --save-path o --rounding up
try fuse --adapter-path $W --save-path o --promote-bits 7
try fuse --adapter-path $W --save-path o --promote-bits 8 --dequantize
try fuse --adapter-path $W --save-path o --min-survival 50
try fuse --adapter-path $W:much --save-path o
