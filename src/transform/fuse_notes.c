/* SPDX-License-Identifier: Apache-2.0 */
/* What an interrupted fuse has found out already, as remarks in its journal. A remark that makes no sense is passed over: the
 * journal is of the same plan, and what it lacks is found out again. */
#include "transform/fuse.h"

#include "base/error.h"
#include "base/text.h"
#include "store/checkpoint.h"
#include "store/consume.h"
#include "store/safetensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char choices_key[] = "/choices ", digests_key[] = "/base ", sums_key[] = "/sums ", files_key[] = "/files",
		  words_key[] = "/makes ";

/* Capitals for promoted ones. */
static const char rounding_letters[] = "adn", promoted_letters[] = "ADN";

static tn_status add_choices(const struct tn_fuse *fuse, struct tn_text *text, struct tn_error *err)
{
	TN_TRY(tn_text_puts(text, choices_key, err));
	for (size_t i = 0; i < fuse->joint->target_count; i++) {
		const struct tn_edit_choice *c = &fuse->choices[i];
		TN_TRY(tn_text_add(text, (c->promote_bits ? promoted_letters : rounding_letters) + c->rounding, 1, err));
	}
	return TN_OK;
}

static tn_status add_digests(const struct tn_fuse *fuse, struct tn_text *text, struct tn_error *err)
{
	TN_TRY(tn_text_puts(text, digests_key, err));
	for (size_t i = 0; i < fuse->base->count; i++) {
		char digits[TN_DIGEST_TEXT];
		tn_digest_text(&fuse->base_digests[i], digits);
		TN_TRY(tn_text_puts(text, digits, err));
	}
	return TN_OK;
}

/* Devices and inodes have other numbers after a restart or on another disk, and the time of a cut file is that of the cut. */
static tn_status add_files(const struct tn_fuse *fuse, struct tn_text *text, struct tn_error *err)
{
	TN_TRY(tn_text_puts(text, files_key, err));
	for (size_t i = 0; i < fuse->base->shard_count; i++) {
		const struct tn_file *file = &fuse->base->shards[i]->file;
		TN_TRY(tn_text_printf(text, err, " %016" PRIx64 " %016" PRIx64, file->bytes, (uint64_t)tn_file_modified(file)));
	}
	return TN_OK;
}

static tn_status note(const struct tn_fuse *fuse, struct tn_output *output,
		      tn_status (*add)(const struct tn_fuse *, struct tn_text *, struct tn_error *), struct tn_error *err)
{
	struct tn_text text;
	tn_text_init(&text, fuse->ctx);
	tn_status status = add(fuse, &text, err);
	if (status == TN_OK)
		status = tn_output_remark(output, text.data, err);
	tn_text_release(&text);
	return status;
}

tn_status tn_fuse_note_choices(const struct tn_fuse *fuse, struct tn_output *output, struct tn_error *err)
{
	return note(fuse, output, add_choices, err);
}

tn_status tn_fuse_note_digests(const struct tn_fuse *fuse, struct tn_output *output, struct tn_error *err)
{
	return note(fuse, output, add_digests, err);
}

tn_status tn_fuse_note_files(const struct tn_fuse *fuse, const char *words, struct tn_output *output, struct tn_error *err)
{
	char text[sizeof words_key + TN_PLAN_WORDS];
	snprintf(text, sizeof text, "%s%s", words_key, words);
	TN_TRY(tn_output_remark(output, text, err));
	return note(fuse, output, add_files, err);
}

/* ---- sums ------------------------------------------------------------------------------------------------ */

/* The numbers as the bits that they are, in one order. */
enum { WORDS = 9 };

static void pack(const struct tn_survival_sums *s, uint64_t words[WORDS])
{
	const double numbers[] = { s->step2, s->delta2, s->error2, s->kept, s->captured2, s->wanted2 };
	memcpy(words, numbers, sizeof numbers);
	words[6] = s->codes;
	words[7] = s->moved;
	words[8] = s->clamped;
}

static void unpack(const uint64_t words[WORDS], struct tn_survival_sums *s)
{
	double numbers[6];
	memcpy(numbers, words, sizeof numbers);
	*s = (struct tn_survival_sums){ .step2 = numbers[0], .delta2 = numbers[1], .error2 = numbers[2], .kept = numbers[3],
					.captured2 = numbers[4], .wanted2 = numbers[5], .codes = words[6], .moved = words[7],
					.clamped = words[8] };
}

tn_status tn_fuse_note_sums(struct tn_output *output, size_t step, const struct tn_survival_sums *sums, struct tn_error *err)
{
	char text[32 + WORDS * 17];
	uint64_t words[WORDS];
	pack(sums, words);
	int n = snprintf(text, sizeof text, "%s%zu", sums_key, step);
	for (int i = 0; i < WORDS; i++)
		n += snprintf(text + n, sizeof text - (size_t)n, " %016" PRIx64, words[i]);
	return tn_output_remark(output, text, err);
}

/* ---- reading --------------------------------------------------------------------------------------------- */

/* The last remark of that kind, behind its key; its length goes to *n. */
static const char *find_last(const char *remarks, const char *key, size_t *n)
{
	const char *found = NULL;
	for (const char *line = remarks, *end; (end = strchr(line, '\n')) != NULL; line = end + 1)
		if (tn_starts_with(line, key)) {
			found = line + strlen(key);
			*n = (size_t)(end - found);
		}
	return found;
}

const char *tn_fuse_recall_words(const char *remarks, size_t *n)
{
	return find_last(remarks, words_key, n);
}

static int recall_choices(struct tn_fuse *fuse, const char *text, size_t n)
{
	if (!text || n != fuse->joint->target_count)
		return 0;
	for (size_t i = 0; i < n; i++)
		if (!strchr(rounding_letters, text[i]) && !strchr(promoted_letters, text[i]))
			return 0;
	for (size_t i = 0; i < n; i++) {
		const char *promoted = strchr(promoted_letters, text[i]);
		fuse->choices[i].promote_bits = promoted ? fuse->options.promote_bits : 0;
		fuse->choices[i].rounding = (tn_rounding)(promoted ? promoted - promoted_letters
								  : strchr(rounding_letters, text[i]) - rounding_letters);
	}
	return 1;
}

static tn_status recall_digests(struct tn_fuse *fuse, const char *text, size_t n, struct tn_error *err)
{
	struct tn_digest *digests;
	if (!text || n != fuse->base->count * (TN_DIGEST_TEXT - 1))
		return TN_OK;
	TN_TRY(tn_arena_array(&fuse->arena, fuse->base->count, sizeof *digests, &digests, err));
	for (size_t i = 0; i < fuse->base->count; i++) {
		char digits[TN_DIGEST_TEXT];
		snprintf(digits, sizeof digits, "%s", text + i * (TN_DIGEST_TEXT - 1));
		if (!tn_digest_parse(digits, &digests[i]))
			return TN_OK;
	}
	fuse->base_digests = digests;
	return TN_OK;
}

tn_status tn_fuse_recall(struct tn_fuse *fuse, const char *remarks, int *has_choices, struct tn_error *err)
{
	size_t n = 0;
	const char *text = find_last(remarks, choices_key, &n);
	*has_choices = recall_choices(fuse, text, n);
	text = find_last(remarks, digests_key, &n);
	TN_TRY(recall_digests(fuse, text, n, err));
	return *has_choices ? tn_fuse_make_steps(fuse, err) : TN_OK;
}

tn_status tn_fuse_check_files(const struct tn_fuse *fuse, const char *remarks, struct tn_error *err)
{
	const tn_checkpoint *base = fuse->base;
	size_t n = 0;
	const char *at = remarks ? find_last(remarks, files_key, &n) : NULL;
	for (size_t i = 0; at && i < base->shard_count; i++) {
		const struct tn_file *file = &base->shards[i]->file;
		char *next;
		uint64_t bytes = strtoull(at, &next, 16), modified = strtoull(next, &next, 16);
		at = next;
		if (!tn_consume_is_cut(base, i) && (bytes != file->bytes || modified != (uint64_t)tn_file_modified(file)))
			return tn_fail(err, TN_E_MISMATCH, base->shard_names[i], "'%.100s' of '%.100s' has changed since the "
				       "interrupted run began: put back what was there, or, if it is that and only its time is "
				       "another, run touch -d @%" PRIu64 ".%09" PRIu64 " on it", base->shard_names[i], base->path,
				       modified / 1000000000, modified % 1000000000);
	}
	return TN_OK;
}

void tn_fuse_recall_sums(const struct tn_fuse *fuse, const char *remarks, struct tn_survival_sums *sums)
{
	for (const char *line = remarks, *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
		uint64_t words[WORDS];
		char *at;
		int count = 0;
		if (!tn_starts_with(line, sums_key))
			continue;
		unsigned long long step = strtoull(line + strlen(sums_key), &at, 10);
		while (count < WORDS && at < end && *at == ' ')
			words[count++] = strtoull(at, &at, 16);
		if (count == WORDS && at == end && step < fuse->step_count)
			unpack(words, &sums[step]);
	}
}
