try tenon --help
try tenon --version
try tenon
try tenon frobnicate
try tenon fuse --help
try tenon fuse
try tenon fuse --model a
try tenon fuse --model a --adapter-path b
try tenon fuse --modle a
try tenon fuse --model
try tenon fuse --model a --adapter-path b --save-path c --force=yes
try tenon fuse --max-memory lots
try tenon fuse --threads 0
try tenon fuse extra
try tenon fuse --model a --adapter-path b --save-path c --upload-repo me/it
try tenon fuse --model a --adapter-path b --save-path c --export-gguf
try tenon inspect
try tenon inspect a b
try tenon verify a b
try tenon inspect --isa quantum examples/base
echo "--- values"
wrong() { try "$@" 2>&1 | grep -v '^! Try'; }
for size in 0x10 1e9 " 5M" -1 +1 .5G 5.G 1.5.5G nan inf 5Q 5Mx 5iB 5Mi 0 ""; do
	wrong tenon inspect --max-memory "$size" nowhere
done
for size in 300000 300000B 300k 0.5M 1.5GiB 2gb 1T; do
	tenon inspect -q --max-memory "$size" examples/base/model.safetensors | head -n 1
done
wrong tenon inspect --threads " 3" nowhere
wrong tenon inspect --threads +3 nowhere
wrong tenon inspect --isa neon nowhere
wrong tenon fuse --model= --adapter-path b --save-path c
wrong tenon fuse --model "" --adapter-path b --save-path c
for bits in 7 -4 0 " 4" +4 4x; do
	wrong tenon quantize --model nowhere --save-path x --q-bits "$bits"
done
wrong tenon quantize --model nowhere --save-path x --q-group-size 16
wrong tenon quantize --model nowhere --save-path x --q-group-size 48
wrong tenon quantize --model nowhere --save-path x --q-mode mxfp4 --q-group-size 64
wrong tenon quantize --model nowhere --save-path x --q-mode nvfp4 --quant-predicate mixed_3_6
wrong tenon quantize --model nowhere --save-path x --quant-predicate foo
wrong tenon convert --hf-path nowhere --mlx-path x --quant-predicate foo
wrong tenon convert --hf-path nowhere --mlx-path x -q --q-bits 7
wrong tenon convert --hf-path nowhere --mlx-path x -q -d
set -- fuse --model a --save-path b
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17; do set -- "$@" --adapter-path "a$i"; done
tenon "$@" 2>&1 | head -n 1
wrong tenon init examples/base -o x --keys ,
wrong tenon init examples/base -o x --alpha 0x8
wrong tenon fuse --min-survival " 0.5"
echo "--- help"
tenon help | head -n 1
tenon help fuse | head -n 1
tenon help help 2>&1 | head -n 1
echo "--- slips"
try tenon fues
try tenon quantize --qbits 4
try tenon fuse --adapter a
try tenon fuse --model examples/adapters/pirate --adapter-path examples/base --save-path never
try tenon fuse --model examples/base --adapter-path examples/base --save-path never
try tenon fuse --model examples/base --adapter-path examples/adapters/pirate:x --save-path never
try tenon inspect examples/base/config.json
mkdir pickles && touch pickles/pytorch_model.bin
try tenon inspect pickles
