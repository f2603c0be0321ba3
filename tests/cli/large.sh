# 64 GB of holes through a dry run and a real fuse of one layer, and back to an adapter. What is kept for each block must not add up: a small budget
# makes many blocks.
"$TOOLS/make_checkpoint" base big 33 8192 28672 32000 4 BF16 holes
"$TOOLS/make_checkpoint" adapter lora 17 8192 28672 16
tenon inspect big | sed -n 1,2p
try "$TOOLS/measure" 50000 "$TENON" fuse -q --threads 2 --max-memory 40M --model big --adapter-path lora --dry-run --json >plan
grep -E '"(bytes|merged|copied|memory_bytes)":|= 0' plan | grep -v name
"$TOOLS/measure" 16000 "$TENON" fuse -q --threads 2 --max-memory 12M --model big --adapter-path lora --save-path out 2>err
echo "= $?"
ls out
tenon inspect out | sed -n 1,2p
# still holes where nothing was merged
test "$(du -sk out | cut -f1)" -lt 2000000 && echo sparse
"$TOOLS/measure" 16000 "$TENON" verify --threads 2 --max-memory 12M big lora out 2>err
echo "= $?"
"$TOOLS/measure" 44000 "$TENON" extract --threads 2 --max-memory 32M --model big --tuned-path out --save-path extracted 2>err
echo "= $?"
# a terminal that is closed is an interrupt: nothing stays
"$TENON" fuse -q --model big --adapter-path lora --save-path hung 2>err &
while [ ! -e .hung.tenon-part ] && kill -0 $! 2>/dev/null; do sleep 0.02; done
kill -HUP $!
wait $!
echo "= $?"
cat err
ls -A | grep hung
rm -r out big extracted

echo "--- a terabyte in 400 shards: headers only"
"$TOOLS/make_checkpoint" base tera 128 16384 53248 128256 400 F32 holes
"$TOOLS/measure" 50000 "$TENON" inspect tera 2>err >text
echo "= $?"
head -n 2 text
"$TOOLS/measure" 50000 "$TENON" inspect --json tera 2>err >text
echo "= $?"
grep -c '"name"' text

echo "--- 98,304 modules: nothing goes through all of them for each"
"$TOOLS/make_checkpoint" many crowd 98304
quick() { (ulimit -t 20 && exec "$TENON" "$@" --quiet >text 2>err) || { echo "$*: $?"; cat err; }; }
quick inspect crowd/adapter
quick inspect crowd/adapter --model crowd/base
tail -n 4 text
quick doctor crowd/base crowd/adapter --for vllm
quick fuse --model crowd/base --adapter-path crowd/adapter --save-path crowd/fused --receipt crowd/receipt.json
quick verify crowd/base crowd/adapter crowd/fused
quick verify --receipt crowd/receipt.json
quick convert --model crowd/base --adapter-path crowd/adapter --to mlx --save-path crowd/mlx
quick resize --model crowd/base --adapter-path crowd/adapter --rank 1 --save-path crowd/small
quick combine --model crowd/base --adapter-path crowd/adapter --adapter-path crowd/small --save-path crowd/two
quick extract --model crowd/base --tuned-path crowd/fused --rank 1 --save-path crowd/extracted
quick init crowd/base --num-layers -1 --rank 1 --save-path crowd/new
rm -r crowd

echo "--- 3,000 layers in 200 files, and no more than 32 open"
"$TOOLS/make_checkpoint" base deep 3000 32 64 64 200 F32 holes
few() { (ulimit -n 32 && quick "$@"); }
few inspect deep
few init deep --num-layers 3000 --rank 1 --save-path deep/new
few init deep --num-layers -1 --rank 1 --dialect peft --keys all-linear --save-path deep/linear
few doctor deep deep/new
few fuse --model deep --adapter-path deep/new --save-path deep/fused --receipt deep/receipt.json
few verify deep deep/new deep/fused
few verify --receipt deep/receipt.json
few quantize --model deep --save-path deep/q --q-group-size 32 --max-shard-size 256K
few dequantize --model deep/q --save-path deep/d --max-shard-size 1M
few extract --model deep --tuned-path deep/fused --rank 1 --save-path deep/extracted
ls deep/q | wc -l
rm -r deep
