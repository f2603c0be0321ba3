/* SPDX-License-Identifier: Apache-2.0 */
/* By what an interrupted fuse is known again: as 32 bytes, and in words for people. docs/architecture.md, "Using the base up". */
#include "transform/fuse.h"

#include "adapter/identity.h"
#include "base/error.h"
#include "base/numeral.h"
#include "transform/plan_id.h"

#include <stdio.h>
#include <string.h>

enum { NAMED_ADAPTERS = 2, HASH_DIGITS = 12, CONFIG_DIGITS = 8 };

/* Appends what fits. */
static void say(char words[TN_PLAN_WORDS], const char *text)
{
	size_t n = strlen(words);
	snprintf(words + n, TN_PLAN_WORDS - n, "%s", text);
}

static tn_status add_adapters(const struct tn_fuse *fuse, struct tn_sha256 *id, int by_content, char words[TN_PLAN_WORDS],
			      struct tn_error *err)
{
	for (size_t i = 0; i < fuse->adapter_count; i++) {
		const struct tn_weighted_adapter *a = &fuse->adapters[i];
		unsigned char hash[TN_HASH_BYTES] = { 0 };
		struct tn_digest config = { { 0 } };
		char text[TN_HASH_TEXT], config_text[TN_DIGEST_TEXT], word[64];
		if (by_content)
			TN_TRY(tn_plan_id_add_adapter_content(id, a->adapter, hash, &config, err));
		else
			tn_plan_id_add_adapter(id, a->adapter);
		tn_plan_id_add(id, &a->weight, sizeof a->weight);
		tn_hash_text(text, hash);
		tn_digest_text(&config, config_text);
		tn_snprintf(word, sizeof word, ", adapter %.*s config %.*s x %g", (int)HASH_DIGITS, text, (int)CONFIG_DIGITS,
			    config_text, a->weight);
		say(words, i < NAMED_ADAPTERS ? word : i == NAMED_ADAPTERS ? " and others" : "");
	}
	return TN_OK;
}

static void add_options(const struct tn_fuse *fuse, struct tn_sha256 *id, char words[TN_PLAN_WORDS])
{
	const struct tn_fuse_options *o = &fuse->options;
	const int options[] = { (int)o->rounding, o->dequantize, o->promote_bits, o->allow_nonfinite };
	char word[64];
	if (o->dense_base)
		tn_plan_id_add_checkpoint(id, o->dense_base);
	tn_plan_id_add(id, options, sizeof options);
	tn_plan_id_add(id, &o->min_survival, sizeof o->min_survival);
	say(words, o->dense_base ? ", a dense base" : "");
	snprintf(word, sizeof word, ", rounding %s", tn_rounding_name(o->rounding));
	say(words, word);
	say(words, o->dequantize ? ", dequantize" : "");
	snprintf(word, sizeof word, ", promote-bits %d", o->promote_bits);
	say(words, o->promote_bits ? word : "");
	tn_snprintf(word, sizeof word, ", min-survival %g", o->min_survival);
	say(words, o->min_survival > 0 ? word : "");
	say(words, o->allow_nonfinite ? ", allow-nonfinite" : "");
}

tn_status tn_fuse_name_plan(const struct tn_fuse *fuse, unsigned flags, unsigned char plan_id[TN_PLAN_ID_BYTES],
			    char words[TN_PLAN_WORDS], struct tn_error *err)
{
	struct tn_sha256 id;
	int consumes = (flags & TN_SAVE_CONSUME) != 0;
	tn_plan_id_begin(&id, "fuse");
	if (consumes)
		tn_plan_id_add_consumed(&id, fuse->base);
	else
		tn_plan_id_add_checkpoint(&id, fuse->base);
	snprintf(words, TN_PLAN_WORDS, "tenon %s", tn_version());
	TN_TRY(add_adapters(fuse, &id, consumes, words, err));
	add_options(fuse, &id, words);
	tn_sha256_finish(&id, plan_id);
	return TN_OK;
}
