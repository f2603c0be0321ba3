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
rm -r out big extracted

echo "--- a terabyte in 400 shards: headers only"
"$TOOLS/make_checkpoint" base tera 128 16384 53248 128256 400 F32 holes
"$TOOLS/measure" 50000 "$TENON" inspect tera 2>err >text
echo "= $?"
head -n 2 text
"$TOOLS/measure" 50000 "$TENON" inspect --json tera 2>err >text
echo "= $?"
grep -c '"name"' text
