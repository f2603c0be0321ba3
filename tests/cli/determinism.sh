# The same bytes for any number of threads, any kernels and any memory budget.
for options in "--threads 1" "--threads 2" "--threads 7" "--isa portable" "--max-memory 300K" "--max-memory 300K --threads 5"; do
	# shellcheck disable=SC2086
	tenon fuse -q $options --model examples/base --adapter-path examples/adapters/pirate --save-path out || exit 1
	sha256sum out/model.safetensors out/model.safetensors.index.json
	rm -r out
done
for isa in avx2 avx512; do
	if tenon inspect -q --isa $isa examples/base >/dev/null 2>&1; then
		tenon fuse -q --isa $isa --model examples/base --adapter-path examples/adapters/pirate --save-path out
		sha256sum out/model.safetensors | sed 's/^/same: /' | sort -u
		rm -r out
	else
		tenon fuse -q --isa portable --model examples/base --adapter-path examples/adapters/pirate --save-path out
		sha256sum out/model.safetensors | sed 's/^/same: /'
		rm -r out
	fi
done
try tenon fuse -q --max-memory 20K --model examples/base --adapter-path examples/adapters/pirate --save-path out
ls -A
