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
