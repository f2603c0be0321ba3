# An adapter in the other dialect and back, in another dtype; what does not go.
try tenon convert --model examples/base --adapter-path examples/adapters/pirate --to peft --save-path a
try tenon inspect a | head -n 12
try tenon convert --model examples/base --adapter-path a --to mlx --save-path b --base-name me/model
cat b/adapter_config.json && echo
tenon fuse -q --model examples/base --adapter-path examples/adapters/pirate --save-path one
tenon fuse -q --model examples/base --adapter-path b --save-path two
cmp one/model.safetensors two/model.safetensors && echo "the same model"
try tenon convert --model examples/base --adapter-path b --to peft --dtype bfloat16 --save-path c --json | head -n 9
try tenon convert --model examples/base --adapter-path b --to peft --dry-run
echo "--- refused"
try tenon convert --model examples/base --adapter-path b --to peft --save-path a
try tenon convert --model examples/base --adapter-path b --to peft --save-path a --force --quiet
try tenon convert --model examples/base --adapter-path b --to peft --save-path b/ --force
try tenon convert --model examples/base --adapter-path b --to peft
try tenon convert --model examples/base --adapter-path b --save-path d
try tenon convert --model examples/base --adapter-path b --to dense --save-path d
try tenon convert --model examples/base --adapter-path b --to mlx --save-path d -q --q-bits 4
try tenon convert --adapter-path b --to mlx --save-path d
try tenon convert --model examples/base --adapter-path b --to mlx --save-path d --dtype int8
try tenon convert --model examples/base --to mlx --save-path d --force
test -e d || echo "nothing was written"
