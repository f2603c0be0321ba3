# New adapters for the sample model, dense and quantized; and what is refused.
clean() { sed 's/in [0-9.]* s ([^)]*)/in X s/'; }
try tenon init examples/base -o a
cat a/adapter_config.json && echo
try tenon inspect a
try tenon inspect a/adapters.safetensors | head -n 3
try tenon init examples/base -o b --dialect peft --rank 4 --alpha 16 --num-layers 2 --keys q_proj,v_proj --keys mlp.down_proj
cat b/adapter_config.json && echo
try tenon inspect b
try tenon doctor examples/base b --for peft | tail -n 4
try tenon init examples/base-mlx-4bit -o c --fine-tune-type dora --num-layers 1 --keys self_attn.o_proj --json
try tenon init examples/base -o d --dialect peft --init xorshift --seed 42 --base-name me/model --task-type SEQ_CLS -q
grep -e base_model -e task_type -e target_modules -A 1 d/adapter_config.json
sed "s/\"model_type\": \"[a-z0-9]*\"/\"model_type\": \"new\"/" examples/base/config.json >config.json
mkdir untold && cp examples/base/model.safetensors untold && cp config.json untold
try tenon init untold -o f --dialect peft
tenon fuse --model examples/base --adapter-path a --save-path same | clean
cmp examples/base/model.safetensors same/model.safetensors && echo "a new adapter changes nothing"
echo "--- identity"
sed 's/20\.0/21.0/' a/adapter_config.json >changed && cp changed a/adapter_config.json
try tenon inspect a
tenon fuse -q --model examples/base --adapter-path examples/adapters/pirate --save-path other
try tenon verify other b other | sed -n "s/, and this base gives.*//; /warning/p"
echo "--- refused"
try tenon init examples/base -o a
try tenon init examples/base -o a --force
try tenon init examples/base -o same --force
try tenon init examples/base
try tenon init examples/base -o e --rank 0
try tenon init examples/base -o e --rank -3
try tenon init examples/base -o e --rank 18446744073709551615
try tenon init examples/base-mlx-4bit -o e --fine-tune-type dora --num-layers 1 --keys embed_tokens
try tenon init examples/base -o e --alpha 0
try tenon init examples/base -o e --alpha 8 --scale 2
try tenon init examples/base -o e --dropout 1.5
try tenon init examples/base -o e --keys self_attn.q_porj
try tenon init examples/base -o e --init zeros
try tenon init examples/base -o e --dialect gguf
try tenon init examples/base -o e --fine-tune-type full
try tenon init examples/base -o e --num-layers two
try tenon init examples/base -o e --num-layers 7
try tenon init nowhere -o e
test -e e || echo "nothing was written"
# a name that JSON cannot hold
tenon init examples/base -o odd --dialect peft --base-name "$(printf '\377')" 2>&1
ls odd 2>/dev/null
