# An adapter that lands, some that do not, and what each engine makes of PEFT's and mlx-lm's.
# brief ARGUMENT...: doctor without the lines of single modules.
brief() {
	tenon doctor "$@" >said
	code=$?
	grep -v -e '^ *[0-9]' -e '{"path": ' said
	return $code
}
try tenon doctor examples/base examples/adapters/pirate
try tenon doctor examples/base examples/adapters/robot
try tenon doctor examples/base examples/adapters/whisper
try brief --json examples/base examples/adapters/robot

"$TOOLS/make_checkpoint" base narrow 1 64 128 64 2 BF16 random
try brief narrow examples/adapters/pirate
try brief --json narrow examples/adapters/whisper
try brief nowhere examples/adapters/pirate
try brief examples/base nowhere
cp -r examples/adapters/pirate two && chmod -R u+w two
cp examples/adapters/whisper/adapters.safetensors two
try brief examples/base two

for engine in peft mlx vllm llama.cpp ollama; do
	for adapter in pirate robot whisper; do
		try brief --for $engine examples/base examples/adapters/$adapter
	done
done
try brief --for mlx --json examples/base examples/adapters/pirate
"$TOOLS/make_checkpoint" adapter one 0 64 128 4
try tenon doctor --json narrow one
tenon init -q examples/base -o table --fine-tune-type dora --num-layers 1 --keys embed_tokens
try brief --for mlx examples/base table
try brief --for mlx examples/base-mlx-4bit table
try brief --for word examples/base examples/adapters/pirate
try brief examples/base
