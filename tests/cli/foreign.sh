# Checkpoints that other libraries packed: looked at, as MLX has them, dense, quantized anew. That the values are right is the
# business of conformance.foreign.
for name in awq_gemm_g64 awq_gemv_g64 gptq_gqm_v1_b4_g32_asym gptq_gqm_v1_b4_g32_asym_act bnb_nf4_b64_dq_u8_bf16_40x128 \
	bnb_int8_40x128 fp8_block_128 ct_pack_int4_g32_sym modelopt_nvfp4 gptoss_mxfp4; do
	ln -s "$FOREIGN/$name" $name
	echo "--- $name"
	try tenon inspect $name
	try tenon convert --hf-path $name --mlx-path mlx --to mlx --quiet
	[ ! -d mlx ] || tenon inspect mlx | sed -n "5,\$p"
	[ ! -d mlx ] || sed -n '/"quantization"/,/}/p' mlx/config.json | tr -d '\n'
	[ ! -d mlx ] || echo
	try tenon convert --hf-path $name --mlx-path anew --to mlx --requantize --q-bits 8 --q-group-size 32 -q --quiet
	try tenon convert --hf-path $name --mlx-path dense --to dense --quiet
	tenon inspect dense | sed -n "5,\$p"
	grep -c quantization dense/config.json
	for folder in mlx anew dense; do
		[ ! -d $folder ] || sha256sum $folder/model.safetensors
	done
	rm -rf mlx anew dense
done
echo "--- nf4 of bitsandbytes"
try tenon convert --hf-path examples/base --mlx-path n4 --to bnb-nf4 --quiet
tenon inspect n4 | sed -n "5,\$p"
sha256sum n4/model.safetensors
sed -n '/"quantization_config"/,/}/p' n4/config.json
try tenon convert --hf-path examples/base-mlx-4bit --mlx-path n5 --to bnb-nf4 --dry-run
try tenon convert --hf-path examples/base --mlx-path n5 --to bnb-nf4 -q
try tenon convert --hf-path examples/base --mlx-path n5 --to bnb-fp4
echo "--- an adapter on it: fused in its own layout, verified, and run packed, fused and beside"
try tenon fuse --model n4 --adapter-path examples/adapters/robot --save-path n4-robot | sed 's/ in [0-9.]* s (.*)//'
try tenon verify n4 examples/adapters/robot n4-robot
cmp n4/config.json n4-robot/config.json && echo same config
try tenon fuse -q --model n4 --adapter-path examples/adapters/robot --save-path n4-dense --dequantize
try tenon verify n4 examples/adapters/robot n4-dense
try tenon fuse -q --model n4 --adapter-path examples/adapters/pirate:0.1 --save-path x --promote-bits 8
try tenon fuse -q --model n4 --adapter-path examples/adapters/pirate:0.1 --save-path x --rounding nearest --min-survival 0.9
tenon dequantize -q --model n4 --save-path n4-plain
for model in n4 n4-plain n4-robot n4-dense; do
	echo "$model: $(tenon run -q --isa portable --model $model --prompt "Hello there" --max-tokens 24 --temp 0 2>/dev/null)"
done
echo "beside: $(tenon run -q --isa portable --model n4 --adapter-path examples/adapters/robot --prompt "Hello there" --max-tokens 24 --temp 0 2>/dev/null)"
echo "--- whole models, and what is refused"
ln -s "$FOREIGN/bnb_llama_nf4_dq" llama
try tenon inspect llama
try tenon convert --hf-path llama --mlx-path x --to mlx
try tenon dequantize --model llama --save-path d --dtype float32 -q
try tenon quantize --model llama --save-path x
try tenon convert --hf-path llama --mlx-path x --to mlx --requantize --dry-run
try tenon convert --hf-path llama --mlx-path x --to dense --requantize
try tenon convert --hf-path llama --mlx-path x --to dense -q
cp -rL llama odd && chmod -R u+w odd
sed -i 's/"quant_method": "bitsandbytes"/"quant_method": "hqq"/' odd/config.json
try tenon convert --hf-path odd --mlx-path x --to dense
sed -i 's/"quant_method": "hqq"/"quant_method": "auto-round", "packing_format": "auto_round:fp8_static"/' odd/config.json
try tenon dequantize --model odd --save-path x
echo "--- a format that is no text is not passed over"
cp -rL "$FOREIGN/gptq_gqm_p_b3_g32_sym" word && chmod -R u+w word
sed -i 's/"checkpoint_format": "gptq_p"/"checkpoint_format": 1/' word/config.json
try tenon dequantize --model word --save-path x
rm -r word
ls
