# Thin names for what CMake presets do. Missing Debian packages are installed first (scripts/setup.sh).
.PHONY: all demo test check bench install clean setup-build setup-test
.NOTPARALLEL:
PREFIX ?= /usr/local

all: setup-build
	@cmake --preset release >build.log 2>&1 || { cat build.log; exit 1; }
	@cmake --build build --target tenon tenon_static tenon_shared
	@rm -f build.log

demo: all
	@sh scripts/demo.sh

# Everything: the suite with gcc, the same under AddressSanitizer and UBSan, and a build with clang for its warnings.
test: setup-test
	@sh scripts/check.sh test asan clang

# Single checks by name: make check CHECKS="tsan fuzz"; sh scripts/check.sh --help lists them.
CHECKS ?= test
check: setup-test
	@sh scripts/check.sh $(CHECKS)

# Ratios to limits, to a copy and, where PYTHON has them, to torch, MLX, onnxruntime, mlx-lm and PEFT (bench/README.md): about
# fifteen minutes. make bench ROW=gemv-4-exact: one row of bench/speed_rows.h; ROW=file-cold: one of bench/files.c;
# ROW=decode: tokens a second, beside llama.cpp where LLAMA is the folder of its programs.
PYTHON ?= python3
bench: all
	@cmake --build build --target bench
ifneq ($(filter file-%,$(ROW)),)
	@build/bench/files $(ROW)
else ifeq ($(ROW),decode)
	@$(PYTHON) bench/decode_peers.py
else
	@build/bench/speed $(ROW)
	@$(PYTHON) bench/peer_rows.py $(ROW)
endif
ifeq ($(ROW),)
	@build/bench/codecs
	@build/bench/files
	@sh bench/fuse.sh
	@$(PYTHON) bench/peers.py
	@build/bench/paths
	@$(PYTHON) bench/decode_peers.py
endif

install: all
	cmake --install build --prefix $(PREFIX)

clean:
	rm -rf build build-test build-asan build-tsan build-clang build-fuzz build-arm build-arm-root

setup-build:
	@sh scripts/setup.sh build
setup-test:
	@sh scripts/setup.sh test
