B=examples/base A=examples/adapters
cp -r $B/ base
cp -r $A/pirate adapter
fuse() { tenon fuse --isa portable -q --model base --adapter-path adapter "$@"; }
try fuse --save-path out --receipt out.json
grep -cE '"sha256"' out.json
grep -E '"(output|base_sha256|output_sha256)"' out.json
grep -A3 '"files"' out.json
grep 'layers.0.self_attn.q_proj.weight' out.json
try tenon verify --receipt out.json
try tenon verify --receipt out.json --json -q | sed -n 1,4p
echo "--- without stdin, stdout and stderr nothing is said into it"
touch base/model.odd
tenon fuse -q --model base --adapter-path adapter --save-path mute --receipt mute.json <&- >&- 2>&-
echo "= $?"
head -n 2 mute.json
rm -r base/model.odd mute
echo "--- one byte of a weight, a file, a file more"
cp -r out bad
printf '\377' | dd of=bad/model.safetensors bs=1 seek=460000 conv=notrunc 2>/dev/null
sed -i 's/0/1/' bad/config.json
echo '{}' >bad/added_tokens.json
rm bad/tokenizer.json
try tenon verify --receipt out.json bad
echo "--- weights that no index lists, and a template, which other programs read"
rm -r bad
cp -r out bad
cp out/model.safetensors bad/model-extra.safetensors
mkdir bad/additional_chat_templates
echo x >bad/additional_chat_templates/tool.jinja
tenon verify --receipt out.json bad 2>/dev/null
mkdir base/additional_chat_templates
echo x >base/additional_chat_templates/tool.jinja
fuse --save-path templates --receipt templates.json
echo y >templates/additional_chat_templates/tool.jinja
tenon verify --receipt templates.json
rm -r base/additional_chat_templates
echo "--- the same tensors without what tells programs how to read them"
rm -r bad
cp -r out bad
sed -i 's/{"format":"pt"}/{"format":"np"}/' bad/model.safetensors
tenon verify --receipt out.json bad
cp out/model.safetensors bad/
rm bad/model.safetensors.index.json
tenon verify --receipt out.json bad
echo "--- other tensors"
tenon verify --receipt out.json examples/base-mlx-4bit -q | awk '{print $1}' | sort | uniq -c
echo "--- the base and the adapter have changed, and are elsewhere"
mv base old-base
try tenon verify --receipt out.json
cp -r $B/ base
printf '\377' | dd of=base/model.safetensors bs=1 seek=460000 conv=notrunc 2>/dev/null
try tenon verify --receipt out.json
try tenon verify --receipt out.json --model old-base
try tenon verify --receipt out.json --model old-base --adapter-path $A/whisper
try tenon verify --receipt out.json --model old-base --adapter-path $A/nothing
try tenon verify --receipt out.json --adapter-path $A/pirate --adapter-path $A/whisper
echo "--- a dense base"
tenon quantize -q --model old-base --save-path packed
cp -r old-base dense
tenon fuse -q --model packed --adapter-path adapter --dense-base dense --save-path outd --receipt dense.json
grep -cE '"dense_base(_sha256)?":' dense.json
tenon verify --receipt dense.json
printf '\377' | dd of=dense/model.safetensors bs=1 seek=460000 conv=notrunc 2>/dev/null
try tenon verify --receipt dense.json
try tenon verify --receipt dense.json --dense-base old-base
try tenon verify --receipt out.json --dense-base old-base
echo "--- a receipt of the folder's own name"
try fuse --save-path same --receipt same
try tenon quantize -q --model base --save-path same/ --receipt same
ls same
echo "--- no receipt"
tenon fuse --model old-base --adapter-path adapter --dry-run --json >plan.json
try tenon verify --receipt plan.json out
try tenon verify --receipt out/config.json out
try tenon verify --receipt missing.json out
try tenon verify --receipt out.json out out
try tenon verify --model old-base old-base adapter out
try tenon verify out
