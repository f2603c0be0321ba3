/* SPDX-License-Identifier: Apache-2.0 */
#include "store/json_out.h"

#include "base/error.h"
#include "store/json_text.h"

#include <math.h>

enum { FLUSH_BYTES = 64 << 10 };

void tn_json_out_init(struct tn_json_out *out, tn_context *ctx, int (*write)(void *, const char *, size_t), void *user)
{
	*out = (struct tn_json_out){ .write = write, .user = user, .first = 1 };
	tn_text_init(&out->text, ctx);
}

static void keep(struct tn_json_out *out, tn_status status, const struct tn_error *error)
{
	if (out->status == TN_OK && status != TN_OK) {
		out->status = status;
		out->error = *error;
	}
}

static void flush(struct tn_json_out *out, size_t above)
{
	struct tn_error error = { 0 };
	if (out->status != TN_OK || out->text.length <= above)
		return;
	if (out->write(out->user, out->text.data, out->text.length) != 0)
		keep(out, tn_fail(&error, TN_E_IO, "JSON", "the report could not be written"), &error);
	out->text.length = 0;
}

static void put(struct tn_json_out *out, const char *s)
{
	struct tn_error error = { 0 };
	if (out->status == TN_OK)
		keep(out, tn_text_puts(&out->text, s, &error), &error);
}

static void break_line(struct tn_json_out *out)
{
	put(out, "\n");
	for (int i = 0; i < out->depth; i++)
		put(out, "  ");
}

/* What comes before a value: nothing behind a key, else a comma and a place of its own. */
static void before_value(struct tn_json_out *out)
{
	if (out->after_key) {
		out->after_key = 0;
		return;
	}
	if (!out->first)
		put(out, out->inline_depth ? ", " : ",");
	if (out->depth && !out->inline_depth)
		break_line(out);
	out->first = 0;
}

void tn_json_out_begin(struct tn_json_out *out, char bracket)
{
	char s[2] = { bracket, 0 };
	before_value(out);
	put(out, s);
	out->depth++;
	if (out->inline_depth)
		out->inline_depth++;
	out->first = 1;
}

void tn_json_out_begin_line(struct tn_json_out *out, char bracket)
{
	tn_json_out_begin(out, bracket);
	if (!out->inline_depth)
		out->inline_depth = 1;
}

void tn_json_out_end(struct tn_json_out *out, char bracket)
{
	char s[2] = { bracket, 0 };
	out->depth--;
	if (!out->inline_depth && !out->first)
		break_line(out);
	if (out->inline_depth)
		out->inline_depth--;
	put(out, s);
	out->first = 0;
	flush(out, FLUSH_BYTES);
}

void tn_json_out_key(struct tn_json_out *out, const char *key)
{
	tn_json_out_string(out, key);
	put(out, ": ");
	out->after_key = 1;
}

void tn_json_out_string(struct tn_json_out *out, const char *s)
{
	struct tn_error error = { 0 };
	before_value(out);
	if (!s)
		put(out, "null");
	else if (out->status == TN_OK)
		keep(out, tn_json_add_string(&out->text, s, &error), &error);
}

void tn_json_out_u64(struct tn_json_out *out, uint64_t n)
{
	struct tn_error error = { 0 };
	before_value(out);
	if (out->status == TN_OK)
		keep(out, tn_text_printf(&out->text, &error, "%llu", (unsigned long long)n), &error);
}

void tn_json_out_double(struct tn_json_out *out, double x)
{
	struct tn_error error = { 0 };
	before_value(out);
	if (!isfinite(x))
		put(out, "null");
	else if (out->status == TN_OK)
		keep(out, tn_json_add_double(&out->text, x, &error), &error);
}

void tn_json_out_bool(struct tn_json_out *out, int truth)
{
	before_value(out);
	put(out, truth ? "true" : "false");
}

tn_status tn_json_out_finish(struct tn_json_out *out, struct tn_error *err)
{
	put(out, "\n");
	flush(out, 0);
	tn_text_release(&out->text);
	if (out->status != TN_OK && err)
		*err = out->error;
	return out->status;
}
