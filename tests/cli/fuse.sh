# --isa portable and -q: the golden text must not depend on the machine or on time
fuse() { tenon fuse --isa portable --model examples/base "$@"; }
try fuse --adapter-path examples/adapters/pirate --dry-run
try fuse --adapter-path examples/adapters/pirate --dry-run --json
try fuse --adapter-path examples/adapters/pirate --dry-run --rounding dither -q
try fuse --adapter-path examples/adapters/pirate --save-path deep/in/pirate -q
(cd deep/in/pirate && ls -A && sha256sum model.safetensors && cat model.safetensors.index.json | sed -n 1,8p)
for f in config.json tokenizer.json tokenizer_config.json generation_config.json chat_template.jinja; do
	cmp examples/base/$f deep/in/pirate/$f && echo "same $f"
done
try tenon verify examples/base examples/adapters/pirate deep/in/pirate
try tenon verify examples/base examples/adapters/pirate deep/in/pirate --json
ls -A deep/in

echo "--- an existing folder"
try fuse --adapter-path examples/adapters/whisper --save-path deep/in/pirate -q
try fuse --adapter-path examples/adapters/whisper --save-path deep/in/pirate -q --force
try tenon verify examples/base examples/adapters/whisper deep/in/pirate
touch deep/in/pirate/model-00009-of-00009.safetensors
try fuse --adapter-path examples/adapters/pirate --save-path deep/in/pirate -q --force
ls -A deep/in/pirate deep/in
touch deep/in/pirate/notes.odt
try fuse --adapter-path examples/adapters/pirate --save-path deep/in/pirate -q --force
ls -A deep/in/pirate | grep notes
mkdir hollow
try fuse --adapter-path examples/adapters/pirate --save-path hollow -q
touch file
try fuse --adapter-path examples/adapters/pirate --save-path file -q
cp -rL examples/base mine
try tenon fuse --model mine --adapter-path examples/adapters/pirate --save-path ./mine/ -q --force
try tenon fuse --model mine --adapter-path examples/adapters/pirate --save-path ./mine/ --dry-run
try tenon fuse --model mine/model.safetensors --adapter-path examples/adapters/pirate --save-path o -q
mkdir links && ln -s ../mine/model.safetensors links && cp mine/config.json links
try tenon fuse --model links --adapter-path examples/adapters/pirate --save-path mine -q --force
try tenon quantize --model links --save-path mine -q --force
try tenon fuse --model examples/base-mlx-4bit --dense-base mine --adapter-path examples/adapters/pirate --save-path mine -q --force
rm -r links
ls -A
echo "--- a colon in a name is no weight"
cp -rL examples/adapters/whisper in:side && cp in:side/adapters.safetensors in:side/a:2.safetensors
for a in in:side in:side:0.5 in:side/adapters.safetensors in:side/a:2.safetensors in:side/a:2.safetensors:0.25; do
	fuse --adapter-path "$a" --dry-run --json | grep -m 1 '"weight":'
done
try fuse --adapter-path "in:side: 1" --dry-run
try fuse --adapter-path in:side:nan --dry-run
rm -r in:side
echo "--- many shards with an index"
tenon convert --hf-path examples/base --mlx-path shards --max-shard-size 1M --quiet
ls shards
try fuse --model shards --adapter-path examples/adapters/robot --save-path joined -q
ls joined
try tenon verify shards examples/adapters/robot joined
cmp shards/model-00005-of-00006.safetensors joined/model-00005-of-00006.safetensors >/dev/null || echo "merged"
grep -c model-00006 joined/model.safetensors.index.json
rm shards/model-00003-of-00006.safetensors
try tenon fuse --model shards --adapter-path examples/adapters/pirate --save-path again -q
