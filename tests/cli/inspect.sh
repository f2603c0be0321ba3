try tenon inspect examples/base
try tenon inspect examples/base/model.safetensors --json
try tenon inspect examples/adapters/pirate
try tenon inspect examples/adapters/whisper
try tenon inspect examples/adapters/pirate --json
try tenon inspect examples/adapters/pirate --model examples/base | sed -n '/^layer/,$p'
tenon inspect examples/adapters/whisper --model examples/base-mlx-4bit --json | sed -n '/"account"/,/^  }/p'
try tenon inspect examples/adapters/pirate/adapter_model.safetensors --model examples/base | head -n 2
try tenon inspect examples/base --model examples/base
try tenon inspect nowhere
try tenon inspect nowhere --json
mkdir empty
try tenon inspect empty
mkfifo pipe
try tenon inspect pipe
ln -s loop loop
try tenon inspect loop
echo '{}' >text.safetensors
try tenon inspect text.safetensors
