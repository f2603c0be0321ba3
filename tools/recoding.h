/* What quantize, dequantize and convert share. */
#ifndef TENON_RECODING_H
#define TENON_RECODING_H

#include "cli.h"

struct recoding {
	const struct cli_command *command;
	const char *model, *save_path;
	struct tn_recode_request request;
	int dry_run, force, resume;
	const char *receipt;       /* file for the JSON, or NULL */
	/* said when it comes to pass: mlx_lm.convert is silent about these */
	int options_without_quantize;
};

/* Runs it; the exit status. */
int run_recoding(const struct recoding *recoding);

/* "float16" and so on to *out; 1 when it is one. NULL leaves *out. */
int recoding_dtype(const char *name, tn_dtype *out);

/* "64" to *out; 1 when it is a whole number from 1. NULL leaves *out. */
int recoding_number(const char *text, int32_t *out);

/* "cpu", "metal", "cuda"; 1 when it is one. NULL leaves *out. */
int recoding_flavour(const char *name, tn_flavour *out);

/* 1 when it is a mode of quantization, or NULL. */
int recoding_mode(const char *name);

#endif
