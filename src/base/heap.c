/* SPDX-License-Identifier: Apache-2.0 */
#include "base/checked.h"
#include "base/context.h"
#include "base/error.h"

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

enum { BUFFER_ALIGN = 64 };

/* An allocator may not be asked for 0 bytes; everything here asks for at least one. */
static size_t at_least_one(size_t bytes)
{
	return bytes ? bytes : 1;
}

tn_status tn_alloc(tn_context *ctx, size_t bytes, const char *what, void *out, struct tn_error *err)
{
	void *p = ctx->heap.alloc(ctx->heap.user, at_least_one(bytes));
	if (!p)
		return tn_fail_nomem(err, what, bytes);
	memcpy(out, &p, sizeof p);
	return TN_OK;
}

tn_status tn_alloc_array(tn_context *ctx, size_t count, size_t size, const char *what, void *out, struct tn_error *err)
{
	size_t bytes;
	if (tn_mul_size(count, size, &bytes))
		return tn_fail(err, TN_E_LIMIT, what, "%zu elements of %zu bytes do not fit in memory", count, size);
	void *p = NULL;
	TN_TRY(tn_alloc(ctx, bytes, what, &p, err));
	memset(p, 0, bytes);
	memcpy(out, &p, sizeof p);
	return TN_OK;
}

tn_status tn_grow(tn_context *ctx, void *array, size_t *capacity, size_t needed, size_t size, const char *what,
		  struct tn_error *err)
{
	if (needed <= *capacity)
		return TN_OK;
	size_t wanted = *capacity ? *capacity : 16, bytes;
	while (wanted < needed)
		if (tn_mul_size(wanted, 2, &wanted))
			return tn_fail_nomem(err, what, needed);
	if (tn_mul_size(wanted, size, &bytes))
		return tn_fail_nomem(err, what, needed);
	void *old, *p;
	memcpy(&old, array, sizeof old);
	if (old)
		p = ctx->heap.resize(ctx->heap.user, old, at_least_one(*capacity * size), bytes);
	else
		p = ctx->heap.alloc(ctx->heap.user, bytes);
	if (!p)
		return tn_fail_nomem(err, what, bytes);
	memcpy(array, &p, sizeof p);
	*capacity = wanted;
	return TN_OK;
}

void tn_free(tn_context *ctx, void *ptr, size_t bytes)
{
	if (ptr)
		ctx->heap.release(ctx->heap.user, ptr, at_least_one(bytes));
}

void tn_free_array(tn_context *ctx, void *ptr, size_t count, size_t size)
{
	tn_free(ctx, ptr, count * size);
}

/* An allocator promises malloc's alignment only, so the block is larger and the pointer that came back stands in front
 * of the aligned one. */
tn_status tn_buffer_alloc(tn_context *ctx, size_t bytes, const char *what, struct tn_buffer *out, struct tn_error *err)
{
	size_t total;
	if (tn_add_size(bytes, BUFFER_ALIGN + sizeof(void *), &total))
		return tn_fail_nomem(err, what, bytes);
	char *block = NULL;
	TN_TRY(tn_alloc(ctx, total, what, &block, err));
	char *data = block + sizeof block;
	data += -(uintptr_t)data & (BUFFER_ALIGN - 1);
	memcpy(data - sizeof block, &block, sizeof block);
	out->data = data;
	out->bytes = bytes;
	return TN_OK;
}

void tn_buffer_use_large_pages(const struct tn_buffer *buffer)
{
#if defined(MADV_HUGEPAGE)
	enum { PAGE = 4096, LEAST = 4 << 20 };
	uintptr_t begin = tn_align_up((uintptr_t)buffer->data, PAGE), end = (uintptr_t)buffer->data + buffer->bytes;
	if (buffer->bytes >= LEAST)
		madvise((void *)begin, (size_t)(end - begin) & ~(size_t)(PAGE - 1), MADV_HUGEPAGE); /* a wish: it may fail */
#else
	(void)buffer;
#endif
}

void tn_buffer_release(tn_context *ctx, struct tn_buffer *buffer)
{
	if (!buffer || !buffer->data)
		return;
	char *block = NULL;
	memcpy(&block, (char *)buffer->data - sizeof block, sizeof block);
	tn_free(ctx, block, buffer->bytes + BUFFER_ALIGN + sizeof block);
	buffer->data = NULL;
	buffer->bytes = 0;
}
