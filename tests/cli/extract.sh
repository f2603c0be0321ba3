# What a fine-tune changed as an adapter: the sample model and what fusing its pirate made of it, in both dialects, and back.
clean() { sed 's/in [0-9.]* s ([^)]*)/in X s/'; }
tenon fuse -q --model examples/base --adapter-path examples/adapters/pirate --save-path tuned
try tenon extract --model examples/base --tuned-path tuned --save-path a --rank 8
grep -e '"r"' -e lora_alpha -e base_model -e task_type -e target_modules a/adapter_config.json
try tenon inspect a | sed 1,4d
try tenon extract --model examples/base --tuned-path tuned -o b --energy 0.9 --dialect mlx --dtype bfloat16 --keys q_proj,v_proj --ignore-rest
cat b/adapter_config.json && echo
try tenon doctor examples/base b --for mlx | tail -n 3
try tenon extract --model examples/base --tuned-path tuned --dry-run --rank 1 --json | sed '/layers\.[1-5]/d; s/\([0-9]\.[0-9]\{4\}\)[0-9]*/\1/'
try tenon fuse --model examples/base --adapter-path a --save-path again | clean
echo "--- with eight threads and little memory the same bytes"
tenon extract -q --model examples/base --tuned-path tuned --save-path c --rank 8 --threads 8
tenon extract -q --model examples/base --tuned-path tuned --save-path d --rank 8 --threads 1 --max-memory 4M
cmp a/adapter_model.safetensors c/adapter_model.safetensors && cmp a/adapter_model.safetensors d/adapter_model.safetensors && echo same
echo "--- refused"
try tenon extract --model examples/base --tuned-path tuned --save-path a
try tenon extract --model examples/base --tuned-path tuned --save-path a --force -q
try tenon extract --model examples/base --tuned-path tuned --save-path tuned --force
try tenon extract --model examples/base --tuned-path tuned --save-path e --keys q_proj
try tenon extract --model examples/base --tuned-path examples/base --save-path e
try tenon extract --model examples/base --tuned-path examples/base-mlx-4bit --save-path e
try tenon extract --model examples/base --tuned-path examples/base-mlx-4bit --save-path e --keys embed_tokens --ignore-rest
try tenon extract --model examples/base --tuned-path tuned --save-path e --max-memory 100K
try tenon extract --model examples/base --tuned-path nowhere --save-path e
try tenon extract --model examples/base --save-path e
try tenon extract --tuned-path tuned --save-path e
try tenon extract --model examples/base --tuned-path tuned
try tenon extract --model examples/base --tuned-path tuned --save-path e --rank 0
try tenon extract --model examples/base --tuned-path tuned --save-path e --rank 18446744073709551615
try tenon extract --model examples/base --tuned-path tuned --save-path e --energy 0
try tenon extract --model examples/base --tuned-path tuned --save-path e --energy 1.5
try tenon extract --model examples/base --tuned-path tuned --save-path e --dtype int8
try tenon extract --model examples/base --tuned-path tuned --save-path e --dialect gguf
try tenon extract --model examples/base --tuned-path tuned --save-path e --save-rest --ignore-rest
test -e e || echo "nothing was written"
