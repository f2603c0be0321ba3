story="Tell me a story about Lily the cat."
ids=0,2,365,341,262,364,368,667,264,887,17,3
strip() { grep -v seconds; }
json() { tenon run -q --json "$@" | strip; }
try tenon run --help
echo "--- voices"
try tenon run -q --model examples/base -p "$story"
try tenon run -q --model examples/base --adapter-path examples/adapters/pirate -p "$story"
try tenon run -q --model examples/base --adapter-path examples/adapters/robot -p "Who found the golden key?"
try tenon run -q --model examples/base-mlx-4bit --adapter-path examples/adapters/whisper -p "$story" -n 30
echo "$story" | try tenon run -q --model examples/base -p - -n 12
try tenon run -q --raw --model examples/base -p "Once upon a time" -n 12
printf 'Once upon\0 a time' | json --raw --model examples/base -p - -n 1
printf 'Once upon\0 a time' | try tenon run -q --model examples/base -p -
try tenon run -q --model examples/base -p - <examples
try tenon run -q --system "Be brief." --model examples/base -p "$story" -n 12
echo "--- as mlx_lm.generate has it"
try tenon run -q --system-prompt "Be brief." --model examples/base -p "$story" -m 12 --trust-remote-code
try tenon run -q --ignore-chat-template --model examples/base -p "Once upon a time" -m 12
try tenon run -q --model examples/base -p "$story" --prefill-response "Once upon a time there was a purple" -m 12
try tenon run -q --model examples/base -p "$story" --extra-eos-token 17 --extra-eos-token "<|end|>"
json --model examples/base -p "$story" --extra-eos-token "<|begin|>" --chat-template-config '{"bos_token": "Once"}' -m 2
for word in --max-kv-size --kv-bits --prompt-cache-file --prefill-step-size -qa --num-draft-tokens --xtc-probability \
	--use-default-chat-template --image; do
	tenon run --model examples/base -p a $word 1 2>&1 | head -n 1
done
tenon chat --pipeline 2>&1 | head -n 1
printf '%s\n' "$story" | try tenon chat -q --model examples/base -m 40 --extra-eos-token 17 --system-prompt "Be brief."
echo "--- sampling"
try tenon run -q --model examples/base -p "$story" --temp 0.8 --top-p 0.9 --seed 3 -n 24
try tenon run -q --model examples/base -p "$story" --temp 0.8 --top-k 5 --min-p 0.1 --seed 4 -n 24 --sampler transformers
try tenon run -q --model examples/base -p "$story" --repetition-penalty 1.5 -n 24
echo "--- for engines"
json --model examples/base --input-ids $ids -n 8 --ignore-eos
json --model examples/base --input-ids $ids -n 90 --adapter-path examples/adapters/robot | tail -n 4
json --model examples/base --input-ids $ids -n 4 --adapter-path examples/adapters/pirate:0
mkdir plain && cp examples/base/config.json examples/base/model.safetensors plain
json --model plain --input-ids $ids -n 4
try tenon run -q --model plain --input-ids "0, 2, 365" -n 4
try tenon run -q --model plain --input-ids "[0, 2, 365]" -n 4
try tenon run -q --model examples/base --input-ids $ids -n 0 --logits logits.safetensors
mkdir one two three && cp -r examples/adapters/pirate one/adapters && cp -r examples/adapters/robot two/adapters
cp -r examples/adapters/pirate three/adapters
json --model examples/base --input-ids $ids -n 4 --adapter-path one/adapters:0.5 --adapter-path three/adapters:0.5
tenon inspect logits.safetensors | tail -n 1
tenon run -q --model examples/base --input-ids 0,2 -n 0 --logits logits.safetensors && tenon inspect logits.safetensors | tail -n 1
try tenon run -q --model plain --input-ids $ids -n 0 --logits plain/model.safetensors
try tenon run -q --model plain --input-ids $ids -n 0 --logits nowhere/logits.safetensors
cmp examples/base/model.safetensors plain/model.safetensors && ls plain
echo "--- no room for more"
json --model examples/base --input-ids $ids --cache-memory 192K 2>/dev/null | tail -n 2
try tenon run -q --model examples/base -p "$story" --cache-memory 192K
try tenon run -q --model examples/base -p "$story" --cache-memory 64K
printf '%s\n' "$story" /reset "$story" | try tenon chat -q --model examples/base --cache-memory 192K
echo "--- no template"
cp examples/base/tokenizer*.json plain
printf '%s\n' "$story" "Once upon a time" | try tenon chat -q --model plain -n 4
try tenon chat -q --model plain --system "Be brief." </dev/null
rm plain/tokenizer*.json
echo "--- chat"
printf '%s\n' "$story" "Who found the golden key?" /adapter "/adapter pirate" /reset "$story" "/adapter off" "/adapter nowhere" \
	"/adapter examples/adapters/robot" /reset "$story" /help /quit "$story" |
	try tenon chat --model examples/base --adapter-path examples/adapters/pirate -n 16
printf 'Once upon\0 a time\n' | try tenon chat -q --model examples/base -n 2
printf '%s\n' "/adapter two/adapters" /adapter "$story" "/adapter one/adapters/" /reset "$story" |
	try tenon chat --model examples/base --adapter-path one/adapters -n 16
echo "--- perplexity"
printf '%s' "Once upon a time there was a shy cat named Lily. One cold Saturday, Lily went to the hill." >text
try tenon perplexity -q --model examples/base text
try tenon perplexity -q --model examples/base --adapter-path examples/adapters/pirate text
try tenon perplexity -q --isa portable --json --model examples/base-mlx-4bit text --sequence-length 9
cp -r examples/base broken # its last norm holds NaN, for which JSON has null
chmod u+w broken/model.safetensors
truncate -s -384 broken/model.safetensors && head -c 384 /dev/zero | tr '\0' '\377' >>broken/model.safetensors
try tenon perplexity -q --json --model broken text
rm -r broken
echo "--- wrong calls"
wrong() { try "$@" 2>&1 | grep -v '^! Try'; }
wrong tenon run
wrong tenon run --model examples/base
wrong tenon run --model examples/base -p a --input-ids 1
wrong tenon run --model examples/base --input-ids 1,x
wrong tenon run --model examples/base --input-ids 1,-2
wrong tenon run --model examples/base --input-ids 5000
wrong tenon run --model examples/base -p a --temp -1
wrong tenon run --model examples/base -p a --top-p 2
wrong tenon run --model examples/base -p a --sampler mine
wrong tenon run --model examples/base --adapter-path examples/base -p a
wrong tenon run --model examples/base --adapter-path examples/adapters/pirate:nan -p a
wrong tenon run --model plain -p a
wrong tenon run --model examples/base -p a --raw --system b
wrong tenon run --model examples/base -p a --ignore-chat-template --prefill-response b
wrong tenon run --model examples/base --input-ids 1 --chat-template-config '{}'
wrong tenon run --model examples/base -p a --chat-template-config '[1]'
wrong tenon run --model examples/base -p a --chat-template-config '{"a"'
wrong tenon run --model examples/base -p a --extra-eos-token 1152
wrong tenon run --model examples/base -p a --extra-eos-token nothing
cp examples/base/tokenizer*.json plain
wrong tenon run --model plain -p a --system b
wrong tenon run --model plain -p a --prefill-response b
wrong tenon chat --model plain --chat-template-config '{}'
wrong tenon run --model examples/base -p a --cache-memory 1K
wrong tenon run --model examples/base/model.safetensors --input-ids 1
sed 's/"llama"/"mamba"/' examples/base/config.json >plain/config.json
wrong tenon run --model plain --input-ids 1
sed 's/"num_hidden_layers": 6/"num_hidden_layers": 7/' examples/base/config.json >plain/config.json
wrong tenon run --model plain --input-ids 1
sed 's/"intermediate_size": 512/"intermediate_size": 500/' examples/base/config.json >plain/config.json
wrong tenon run --model plain --input-ids 1
wrong tenon perplexity --model examples/base nowhere
wrong tenon perplexity --model examples/base examples
printf "" >empty && wrong tenon perplexity --model examples/base empty
cp examples/base/config.json plain
more=$(seq -f '{"content": "<%g>"},' 1200)
sed "s/\"added_tokens\": \\[/& $(echo $more) {\"content\": \"hill.\", \"special\": false},/" examples/base/tokenizer.json \
	>plain/tokenizer.json
wrong tenon perplexity --model plain text
wrong tenon perplexity --model examples/base text --sequence-length 1
wrong tenon perplexity --model examples/base text --sequence-length 0
wrong tenon perplexity --model examples/base text --sequence-length 18446744073709551615
wrong tenon perplexity --model examples/base text --sequence-length 8x
wrong tenon perplexity --model examples/base /dev/zero
wrong tenon run --model examples/base -p - </dev/zero
