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
try tenon inspect
try tenon inspect a b
try tenon verify a b
try tenon inspect --isa quantum examples/base
