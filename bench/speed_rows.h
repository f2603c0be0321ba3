/* The rows of `speed`. */
#ifndef BENCH_SPEED_ROWS_H
#define BENCH_SPEED_ROWS_H

#include "kernels/kernels.h"
#include "weights/nf4.h"

enum { TOKENS = 64 };
/* PRODUCT_OF_BF16: activations are BF16 values, and the kernel is told. */
enum kind {
	FUSE, FUSE_IN_PLACE, FUSE_DORA, FUSE_PACKED, FUSE_PACKED_DITHER, FUSE_PACKED_DORA, FUSE_PACKED_DORA_DITHER,
	QUANTIZE, DEQUANTIZE, QUANTIZE_NF4, DEQUANTIZE_NF4,
	PRODUCT, PRODUCT_OF_BF16, LORA, ADAPTERS
};
enum limit { COPY, READ_SOURCE, WRITE_RESULT, DOTS, WITHOUT_LORA, ONE_ADAPTER, PLAIN_LORA };

/* A row of the table. */
struct row {
	const char *name;
	enum kind kind;
	enum limit limit;
	size_t cols, m, rank;              /* ADAPTERS: m different ones for the TOKENS; rank 0: 8, 16, 32 and 64 in turn */
	struct tn_format format;
	enum tn_precision precision;
	double most;                       /* error that the check allows */
};

#define BF16 { .codec = TN_CODEC_dense, .dtype = TN_BF16 }
#define AFFINE(b) { .codec = TN_CODEC_affine, .dtype = TN_BF16, .bits = b, .group = 64 }
#define MXFP4 { .codec = TN_CODEC_mxfp4, .dtype = TN_BF16, .bits = 4, .group = 32 }
#define NVFP4 { .codec = TN_CODEC_nvfp4, .dtype = TN_BF16, .bits = 4, .group = 16 }
#define MXFP8 { .codec = TN_CODEC_mxfp8, .dtype = TN_BF16, .bits = 8, .group = 32 }

/* Bases of other libraries in memory: nf4, FP8 and int8. */
static float e4m3_table[256], whole_table[256]; /* filled by main */
static const struct tn_grid nf4_grid = { .table = tn_nf4_levels, .code_count = 16, .factor = 1 };
static const struct tn_grid e4m3_grid = { .table = e4m3_table, .code_count = 256, .factor = 1 };
static const struct tn_grid whole_grid = { .table = whole_table, .code_count = 256, .factor = 0x1.020408p-7f };
#define NF4 { .codec = TN_CODEC_table, .dtype = TN_BF16, .bits = 4, .group = 64, .grid = &nf4_grid }
#define F8 { .codec = TN_CODEC_table, .dtype = TN_BF16, .bits = 8, .group = 128, .grid = &e4m3_grid, .code_kind = TN_CODES_E4M3 }
#define I8 { .codec = TN_CODEC_table, .dtype = TN_F16, .bits = 8, .group = 1024, .grid = &whole_grid, .code_kind = TN_CODES_I8 }

static const struct row rows[] = {
	{ "fuse-r16", FUSE, COPY, 4096, 0, 16, BF16, 0, 0.52 },
	{ "fuse-r16-in-place", FUSE_IN_PLACE, COPY, 4096, 0, 16, BF16, 0, 0.52 },
	{ "fuse-r64", FUSE_IN_PLACE, DOTS, 4096, 0, 64, BF16, 0, 0.52 },
	{ "fuse-dora-r16", FUSE_DORA, PLAIN_LORA, 4096, 0, 16, BF16, 0, 0.502 },
	{ "fuse-dora-r64", FUSE_DORA, PLAIN_LORA, 4096, 0, 64, BF16, 0, 0.502 },
	{ "fuse-4-nearest", FUSE_PACKED, READ_SOURCE, 4096, 0, 16, AFFINE(4), 0, 0 },
	{ "fuse-4-dither", FUSE_PACKED_DITHER, READ_SOURCE, 4096, 0, 16, AFFINE(4), 0, 0 },
	{ "fuse-4-dora-nearest", FUSE_PACKED_DORA, READ_SOURCE, 4096, 0, 16, AFFINE(4), 0, 0 },
	{ "fuse-4-dora-dither", FUSE_PACKED_DORA_DITHER, READ_SOURCE, 4096, 0, 16, AFFINE(4), 0, 0 },
	{ "fuse-8-nearest", FUSE_PACKED, READ_SOURCE, 4096, 0, 16, AFFINE(8), 0, 0 },
	{ "fuse-mxfp4-nearest", FUSE_PACKED, READ_SOURCE, 4096, 0, 16, MXFP4, 0, 0 },
	{ "fuse-mxfp4-dither", FUSE_PACKED_DITHER, READ_SOURCE, 4096, 0, 16, MXFP4, 0, 0 },
	{ "fuse-nvfp4-nearest", FUSE_PACKED, READ_SOURCE, 4096, 0, 16, NVFP4, 0, 0 },
	{ "quantize-2", QUANTIZE, READ_SOURCE, 4096, 0, 0, AFFINE(2), 0, 0 },
	{ "quantize-4", QUANTIZE, READ_SOURCE, 4096, 0, 0, AFFINE(4), 0, 0 },
	{ "quantize-8", QUANTIZE, READ_SOURCE, 4096, 0, 0, AFFINE(8), 0, 0 },
	{ "quantize-mxfp4", QUANTIZE, READ_SOURCE, 4096, 0, 0, MXFP4, 0, 0 },
	{ "quantize-nvfp4", QUANTIZE, READ_SOURCE, 4096, 0, 0, NVFP4, 0, 0 },
	{ "quantize-mxfp8", QUANTIZE, READ_SOURCE, 4096, 0, 0, MXFP8, 0, 0 },
	{ "dequantize-3", DEQUANTIZE, WRITE_RESULT, 4096, 0, 0, AFFINE(3), 0, 0 },
	{ "dequantize-4", DEQUANTIZE, WRITE_RESULT, 4096, 0, 0, AFFINE(4), 0, 0 },
	{ "dequantize-8", DEQUANTIZE, WRITE_RESULT, 4096, 0, 0, AFFINE(8), 0, 0 },
	{ "dequantize-mxfp4", DEQUANTIZE, WRITE_RESULT, 4096, 0, 0, MXFP4, 0, 0 },
	{ "dequantize-nvfp4", DEQUANTIZE, WRITE_RESULT, 4096, 0, 0, NVFP4, 0, 0 },
	{ "dequantize-mxfp8", DEQUANTIZE, WRITE_RESULT, 4096, 0, 0, MXFP8, 0, 0 },
	{ "quantize-nf4", QUANTIZE_NF4, READ_SOURCE, 4096, 0, 0, BF16, 0, 0 },
	{ "dequantize-nf4", DEQUANTIZE_NF4, WRITE_RESULT, 4096, 0, 0, BF16, 0, 0 },
	{ "gemv-4-exact", PRODUCT, READ_SOURCE, 14336, 1, 0, AFFINE(4), TN_PRECISION_EXACT, 1e-5 },
	{ "gemv-4-16", PRODUCT, READ_SOURCE, 14336, 1, 0, AFFINE(4), TN_PRECISION_16, 5e-5 },
	{ "gemv-4-int8", PRODUCT, READ_SOURCE, 14336, 1, 0, AFFINE(4), TN_PRECISION_INT8, 2e-2 },
	{ "gemv-mxfp4-exact", PRODUCT, READ_SOURCE, 14336, 1, 0, MXFP4, TN_PRECISION_EXACT, 1e-5 },
	{ "gemv-nvfp4-exact", PRODUCT, READ_SOURCE, 14336, 1, 0, NVFP4, TN_PRECISION_EXACT, 1e-5 },
	{ "gemv-8-exact", PRODUCT, READ_SOURCE, 14336, 1, 0, AFFINE(8), TN_PRECISION_EXACT, 1e-5 },
	{ "gemv-nf4", PRODUCT, READ_SOURCE, 14336, 1, 0, NF4, TN_PRECISION_EXACT, 1e-5 },
	{ "gemv-f8", PRODUCT, READ_SOURCE, 14336, 1, 0, F8, TN_PRECISION_EXACT, 1e-5 },
	{ "gemv-int8", PRODUCT, READ_SOURCE, 14336, 1, 0, I8, TN_PRECISION_EXACT, 1e-5 },
	{ "gemv-bf16-exact", PRODUCT, READ_SOURCE, 4096, 1, 0, BF16, TN_PRECISION_EXACT, 1e-5 },
	{ "lora-4", LORA, WITHOUT_LORA, 14336, 1, 16, AFFINE(4), TN_PRECISION_EXACT, 1e-5 },
	{ "lora-bf16", LORA, WITHOUT_LORA, 4096, 1, 16, BF16, TN_PRECISION_EXACT, 1e-5 },
	{ "gemm-4-m4", PRODUCT, DOTS, 14336, 4, 0, AFFINE(4), TN_PRECISION_EXACT, 1e-5 },
	{ "gemm-4-m16", PRODUCT, DOTS, 14336, 16, 0, AFFINE(4), TN_PRECISION_EXACT, 1e-5 },
	{ "gemm-4-m64", PRODUCT, DOTS, 14336, 64, 0, AFFINE(4), TN_PRECISION_EXACT, 1e-5 },
	{ "gemm-4-m512", PRODUCT, DOTS, 14336, 512, 0, AFFINE(4), TN_PRECISION_EXACT, 1e-5 },
	{ "gemm-nf4-m16", PRODUCT, DOTS, 14336, 16, 0, NF4, TN_PRECISION_EXACT, 1e-5 },
	{ "gemm-f8-m16", PRODUCT, DOTS, 14336, 16, 0, F8, TN_PRECISION_EXACT, 1e-5 },
	{ "gemm-bf16-m16", PRODUCT, DOTS, 4096, 16, 0, BF16, TN_PRECISION_EXACT, 1e-5 },
	{ "gemm-4-bf16x-m4", PRODUCT_OF_BF16, DOTS, 14336, 4, 0, AFFINE(4), TN_PRECISION_EXACT, 1e-5 },
	{ "gemm-4-bf16x-m16", PRODUCT_OF_BF16, DOTS, 14336, 16, 0, AFFINE(4), TN_PRECISION_EXACT, 1e-5 },
	{ "gemm-4-bf16x-m64", PRODUCT_OF_BF16, DOTS, 14336, 64, 0, AFFINE(4), TN_PRECISION_EXACT, 1e-5 },
	{ "gemm-4-bf16x-m512", PRODUCT_OF_BF16, DOTS, 14336, 512, 0, AFFINE(4), TN_PRECISION_EXACT, 1e-5 },
	{ "gemm-4-16-m64", PRODUCT, DOTS, 14336, 64, 0, AFFINE(4), TN_PRECISION_16, 5e-5 },
	{ "gemm-4-int8-m64", PRODUCT, DOTS, 14336, 64, 0, AFFINE(4), TN_PRECISION_INT8, 2e-2 },
	{ "adapters-64", ADAPTERS, READ_SOURCE, 4096, TOKENS, 16, BF16, TN_PRECISION_EXACT, 1e-5 },
	{ "adapters-mixed", ADAPTERS, READ_SOURCE, 4096, TOKENS, 0, BF16, TN_PRECISION_EXACT, 1e-5 },
	{ "adapters-8", ADAPTERS, ONE_ADAPTER, 4096, 8, 16, BF16, TN_PRECISION_EXACT, 1e-5 },
	{ "adapters-1", ADAPTERS, DOTS, 4096, 1, 16, BF16, TN_PRECISION_EXACT, 1e-5 },
};

#endif
