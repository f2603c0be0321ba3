/* SPDX-License-Identifier: Apache-2.0 */
#include "base/error.h"
#include "model/decoder.h"

#include <string.h>

tn_status tn_sequence_create(tn_decoder *d, size_t reserve, tn_sequence **out, struct tn_error *err)
{
	tn_sequence *s;
	TN_TRY(tn_alloc_array(d->ctx, 1, sizeof *s, "text", &s, err));
	s->decoder = d;
	s->reserve = reserve;
	tn_status status = tn_grow(d->ctx, &s->ids, &s->capacity, reserve, sizeof *s->ids, "tokens of a text", err);
	if (status == TN_OK)
		status = tn_attention_reserve(d, reserve, err);
	if (status != TN_OK) {
		tn_free_array(d->ctx, s->ids, s->capacity, sizeof *s->ids);
		tn_free(d->ctx, s, sizeof *s);
		return status;
	}
	s->next = d->sequences;
	d->sequences = s;
	*out = s;
	return TN_OK;
}

void tn_sequence_destroy(tn_sequence *s)
{
	if (!s)
		return;
	tn_decoder *d = s->decoder;
	for (tn_sequence **at = &d->sequences; *at; at = &(*at)->next)
		if (*at == s) {
			*at = s->next;
			break;
		}
	while (s->caches)
		tn_kv_free(d, s, s->caches);
	tn_free(d->ctx, s->adapter, s->adapter_bytes);
	tn_free_array(d->ctx, s->ids, s->capacity, sizeof *s->ids);
	tn_free(d->ctx, s, sizeof *s);
}

tn_status tn_sequence_use(tn_sequence *s, const char *adapter, struct tn_error *err)
{
	tn_context *ctx = s->decoder->ctx;
	char *copy = NULL;
	size_t bytes = adapter ? strlen(adapter) + 1 : 0;
	if (adapter) {
		TN_TRY(tn_alloc(ctx, bytes, "name of an adapter", &copy, err));
		memcpy(copy, adapter, bytes);
	}
	tn_free(ctx, s->adapter, s->adapter_bytes);
	s->adapter = copy;
	s->adapter_bytes = bytes;
	return TN_OK;
}

const uint32_t *tn_sequence_ids(const tn_sequence *s, size_t *count)
{
	*count = s->length;
	return s->ids;
}

void tn_sequence_rewind(tn_sequence *s, size_t length)
{
	s->length = length < s->length ? length : s->length;
	for (struct tn_kv *kv = s->caches; kv; kv = kv->next)
		kv->length = kv->length < s->length ? kv->length : s->length;
}
