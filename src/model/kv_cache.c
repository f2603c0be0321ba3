/* SPDX-License-Identifier: Apache-2.0 */
#include "base/checked.h"
#include "base/error.h"
#include "kernels/kernels.h"
#include "model/decoder.h"

#include <string.h>

size_t tn_kv_bytes_per_token(const tn_decoder *d)
{
	return (size_t)(d->config.layers * 2 * d->config.kv_heads * d->config.head_dim) * sizeof(float);
}

float *tn_kv_head(const tn_decoder *d, const struct tn_kv *kv, size_t layer, unsigned part, uint64_t head)
{
	size_t block = (layer * 2 + part) * d->config.kv_heads + head;
	return (float *)kv->data.data + block * kv->capacity * d->config.head_dim;
}

static void drop_data(tn_decoder *d, struct tn_kv *kv)
{
	d->cache_used -= kv->data.bytes;
	tn_buffer_release(d->ctx, &kv->data);
	kv->capacity = kv->length = 0;
}

void tn_kv_free(tn_decoder *d, struct tn_sequence *s, struct tn_kv *kv)
{
	for (struct tn_kv **at = &s->caches; *at; at = &(*at)->next)
		if (*at == kv) {
			*at = kv->next;
			break;
		}
	drop_data(d, kv);
	for (unsigned r = 0; r < d->config.ropes; r++)
		tn_free_array(d->ctx, kv->own[r], d->pairs[r], sizeof(float));
	tn_free(d->ctx, kv, sizeof *kv);
}

/* Gives up the cache that was not used for longest; those of texts in this step stay. 0: there is none. */
static int give_up_oldest(tn_decoder *d)
{
	struct tn_sequence *owner = NULL;
	struct tn_kv *oldest = NULL;
	for (struct tn_sequence *s = d->sequences; s; s = s->next)
		for (struct tn_kv *kv = s->caches; kv; kv = kv->next)
			if (!(s->in_step && s->kv == kv) && (!oldest || kv->last_use < oldest->last_use)) {
				oldest = kv;
				owner = s;
			}
	if (!oldest)
		return 0;
	tn_kv_free(d, owner, oldest);
	return 1;
}

/* `bytes` within the budget, beside what `kv` has, or, where the two do not fit, in its place: then the text is computed
 * again. */
static tn_status make_room(tn_decoder *d, struct tn_kv *kv, uint64_t bytes, size_t tokens, struct tn_error *err)
{
	while (bytes > d->cache_budget - tn_min_u64(d->cache_used, d->cache_budget))
		if (!give_up_oldest(d))
			break;
	if (bytes <= d->cache_budget - tn_min_u64(d->cache_used, d->cache_budget))
		return TN_OK;
	const uint64_t others = d->cache_used - kv->data.bytes;
	if (bytes > d->cache_budget - tn_min_u64(others, d->cache_budget))
		return tn_fail(err, TN_E_LIMIT, "KV cache",
			       "%zu tokens need %llu bytes, the budget is %llu; raise it, or shorten the text", tokens,
			       (unsigned long long)bytes, (unsigned long long)d->cache_budget);
	drop_data(d, kv);
	return TN_OK;
}

static tn_status create(tn_decoder *d, struct tn_kv **out, struct tn_error *err)
{
	struct tn_kv *kv;
	TN_TRY(tn_alloc_array(d->ctx, 1, sizeof *kv, "KV cache", &kv, err));
	for (unsigned r = 0; r < d->config.ropes; r++) {
		if (d->config.rope[r].kind != TN_ROPE_DYNAMIC)
			continue;
		tn_status status = tn_alloc_array(d->ctx, d->pairs[r], sizeof(float), "KV cache", &kv->own[r], err);
		if (status != TN_OK) {
			tn_free_array(d->ctx, kv->own[0], d->pairs[0], sizeof(float));
			tn_free(d->ctx, kv, sizeof *kv);
			return status;
		}
	}
	*out = kv;
	return TN_OK;
}

/* Moves what is cached into room for `capacity` tokens. */
static tn_status grow(tn_decoder *d, struct tn_kv *kv, size_t capacity, size_t tokens, struct tn_error *err)
{
	struct tn_kv larger = *kv;
	size_t bytes;
	if (tn_mul_size(capacity, tn_kv_bytes_per_token(d), &bytes))
		return tn_fail(err, TN_E_LIMIT, "KV cache", "%zu tokens are too many", tokens);
	TN_TRY(make_room(d, kv, bytes, tokens, err));
	larger.capacity = capacity;
	TN_TRY(tn_buffer_alloc(d->ctx, bytes, "KV cache", &larger.data, err));
	d->cache_used += bytes;
	for (size_t layer = 0; layer < d->config.layers && kv->length; layer++)
		for (unsigned part = 0; part < 2; part++)
			for (uint64_t h = 0; h < d->config.kv_heads; h++)
				memcpy(tn_kv_head(d, &larger, layer, part, h), tn_kv_head(d, kv, layer, part, h),
				       tn_align_up(kv->length, TN_KEY_BLOCK) * d->config.head_dim * sizeof(float));
	const size_t length = kv->length;
	drop_data(d, kv);
	kv->data = larger.data;
	kv->length = length;
	kv->capacity = capacity;
	return TN_OK;
}

/* Room for the reserve, or twice what there was, in whole blocks of keys, as far as the budget goes. */
static size_t next_capacity(const tn_decoder *d, const struct tn_sequence *s, const struct tn_kv *kv, size_t tokens)
{
	uint64_t affordable = d->cache_budget / tn_kv_bytes_per_token(d) / TN_KEY_BLOCK * TN_KEY_BLOCK;
	uint64_t wanted = kv->capacity ? kv->capacity * 2 : s->reserve;
	return tn_align_up((size_t)tn_max_u64(tokens, tn_min_u64(wanted, affordable)), TN_KEY_BLOCK);
}

static tn_status grow_to(tn_decoder *d, struct tn_sequence *s, struct tn_kv *kv, size_t tokens, struct tn_error *err)
{
	const size_t least = tn_align_up(tokens, TN_KEY_BLOCK), wanted = next_capacity(d, s, kv, tokens);
	if (wanted > least && grow(d, kv, wanted, tokens, NULL) == TN_OK)
		return TN_OK;
	return grow(d, kv, least, tokens, err);
}

tn_status tn_kv_open(tn_decoder *d, struct tn_sequence *s, uint64_t identity, size_t tokens, struct tn_kv **out,
		     struct tn_error *err)
{
	struct tn_kv *kv = s->caches;
	while (kv && kv->identity != identity)
		kv = kv->next;
	if (!kv) {
		TN_TRY(create(d, &kv, err));
		kv->identity = identity;
		kv->next = s->caches;
		s->caches = kv;
	}
	kv->last_use = ++d->clock;
	s->kv = kv;
	if (tokens > kv->capacity)
		TN_TRY(grow_to(d, s, kv, tokens, err));
	*out = kv;
	return TN_OK;
}
