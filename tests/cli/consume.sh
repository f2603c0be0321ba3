# A base that is used up; 3 shards, so that one is kept for others.
"$TOOLS/make_checkpoint" base model 3 64 128 64 3 BF16 random
"$TOOLS/make_checkpoint" adapter lora 1 64 128 4
cp -r model base
fuse() { tenon fuse --isa portable -q --model base --adapter-path lora "$@"; }
tenon fuse -q --model model --adapter-path lora --save-path plain
try fuse --save-path out --consume-input --receipt out.json
diff -r plain out && echo the same
ls base
sed 's| /.*/| |' base/CONSUMED-BY-TENON.txt
try tenon verify --receipt out.json
tenon verify model lora out
tenon inspect base 2>&1 | sed "s| '/.*/| '|"
fuse --save-path out --consume-input --resume && echo complete
echo "--- refused"
rm -r base out
cp -r model base
try fuse --save-path out --consume-input --force
try fuse --dry-run --consume-input
try fuse --save-path out --dry-run --consume-input
mkdir linked
(cd linked && ln -s ../base/* .)
tenon fuse --model linked --adapter-path lora --save-path out --consume-input 2>&1 | sed 's/; fuse without.*//'
tenon fuse --model linked --adapter-path lora --save-path out --consume-input --dry-run 2>&1 | sed 's/; fuse without.*//'
ln base/model-00002-of-00003.safetensors hard
fuse --save-path out --consume-input 2>&1 | sed 's/; fuse without.*//'
rm hard
flock base sh -c '"$0" fuse --model base --adapter-path lora --save-path out --consume-input' "$TENON"
cp -r base odd
rm -f odd/*.index.json
for i in 1 2 3; do
	mv odd/model-0000$i-of-00003.safetensors "$(printf 'odd/\350')$i.safetensors"
done
tenon fuse --model odd --adapter-path lora --save-path out --consume-input
rm -r odd
mkdir out
echo mine >out/mine
try fuse --save-path out --consume-input
rm -r out
cmp base/model-00001-of-00003.safetensors model/model-00001-of-00003.safetensors && echo base as it was
ls base
echo "--- scales in another file than their codes"
tenon quantize -q --model model --save-path q --max-shard-size 20000
fuse() { tenon fuse --isa portable -q --model q --adapter-path lora "$@"; }
fuse --save-path plainq --receipt plain.json
cp -r q q0
try fuse --save-path outq --consume-input --receipt used.json
diff -r plainq outq && echo the same
grep survival plain.json >a
grep survival used.json | cmp - a && echo the same numbers
tenon verify q0 lora outq
