# quantize, dequantize and convert on the sample; byte equality with mlx-lm is the business of tests/conformance
try tenon quantize --isa portable --model examples/base --save-path q4 --q-bits 4 -q
tenon inspect q4 | sed -n 1,6p
sed -n '/"quantization"/,/}/p' q4/config.json
try tenon quantize --model examples/base --save-path q3 --q-bits 3 --q-group-size 32 --dry-run
try tenon quantize --model examples/base --save-path mixed --quant-predicate mixed_3_6 --dry-run
try tenon quantize --model examples/base --q-mode nvfp4 --dry-run
echo "--- there and back"
try tenon dequantize --isa portable --model q4 --save-path back -q
tenon inspect back | sed -n 1,2p
grep -c quantization back/config.json
try tenon dequantize --model q4 --save-path wide --dtype float32 -q --receipt receipt.json
grep -v '"name"' receipt.json
try tenon verify --receipt receipt.json
cp -r wide bad
printf '\377' | dd of=bad/model.safetensors bs=1 seek=460000 conv=notrunc 2>/dev/null
try tenon verify --receipt receipt.json bad
rm -r bad
try tenon verify --receipt receipt.json --model examples/base | tail -n 2
try tenon dequantize --model q4 --save-path mlx --like-mlx -q
sha256sum q4/model.safetensors back/model.safetensors wide/model.safetensors
echo "--- many shards, little memory, any number of threads"
try tenon quantize --model examples/base --save-path s1 --max-shard-size 200K -q --max-memory 200K --threads 5
ls s1 | sed -n 1,3p
try tenon dequantize --model s1 --save-path s2 -q --max-shard-size 1G
cmp s2/model.safetensors back/model.safetensors && echo same
echo "--- receipts replace receipts only, and a folder that is missing is known in time"
try tenon dequantize --model q4 --save-path r1 -q --receipt receipt.json
try tenon dequantize --model q4 --save-path r1 -q --receipt q4/config.json --force
try tenon dequantize --model q4 --save-path r1 -q --receipt nowhere/receipt.json
try tenon dequantize --model q4 --save-path r1 -q --receipt receipt.json --force
echo "--- the config says what the weights are"
cp -r q4 q5 && echo '{"bits": 4, "group_size": 64}' >q5/quantization_config.json
try tenon dequantize --model q5 --save-path half --dtype float16 -q
ls half
grep dtype half/config.json
echo "--- sidecars are there, or it is said"
ln -s nowhere q5/tokenizer.model && : >q5/vocab.spm && : >q5/notes.odt
try tenon dequantize --model q5 --save-path left -q
rm q5/tokenizer.model q5/config.json
try tenon quantize --model examples/base-mlx-4bit --save-path again -q
try tenon dequantize --model examples/base --save-path again -q
echo "--- what mlx_lm.convert is silent about"
tenon convert --hf-path examples/base --mlx-path c1 -q --q-group-size 128 --quiet 2>&1 | sed -n 1,2p
tenon convert --hf-path examples/base-mlx-4bit --mlx-path c2 -q --quiet
tenon convert --hf-path examples/base --mlx-path c3 --quant-predicate mixed_3_6 --quiet
echo "--- mlx-lm does not count what stands beside modules, like the sinks of gpt-oss"
mkdir sinks && echo '{"model_type": "gpt_oss"}' >sinks/config.json
header='{"a.q.bias":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a.q.weight":{"dtype":"F32","shape":[2,1],"data_offsets":[8,16]},"a.sinks":{"dtype":"F32","shape":[3],"data_offsets":[16,28]}}'
{ printf "$(printf '\\%o\\0\\0\\0\\0\\0\\0\\0' ${#header})"; printf %s "$header"; head -c 28 /dev/zero; } >sinks/model.safetensors
tenon convert --hf-path sinks --mlx-path sinks1 --quiet
grep total_ sinks1/model.safetensors.index.json
rm -r sinks sinks1
echo "--- an end-of-text token of generation_config.json counts as in Python, and a broken file does not"
cp -r examples/base g && chmod -R u+w g
for text in '{"eos_token_id": [7, 8]}' '{"eos_token_id": []}' '{"eos_token_id": '; do
	echo "$text" >g/generation_config.json
	tenon convert --hf-path g --mlx-path g1 --quiet
	grep -A 3 eos_token_id g1/config.json | tr -d '\n'
	echo
	rm -r g1
done
rm -r g
echo "--- wrong calls"
try tenon quantize --model examples/base
try tenon quantize --model examples/base --save-path x --q-mode int4
try tenon quantize --model examples/base --save-path x --q-bits 7
try tenon quantize --model examples/base --save-path x --q-bits four
try tenon dequantize --model q4 --save-path x --dtype int8
try tenon convert --hf-path examples/base --mlx-path q4 -q
try tenon convert --hf-path examples/base --mlx-path x -q -d
try tenon convert --hf-path examples/base --mlx-path x --upload-repo me/it
try tenon quantize --model q4/model.safetensors --save-path x
ls -A
