/* Post-processors of tokenizer.json: which special tokens stand around one text, and around two. */
#ifndef TN_POSTPROCESS_H
#define TN_POSTPROCESS_H

#include "base/arena.h"
#include "tokenizer/token_work.h"

#include <jansson.h>

/* A special token's ids, or one of the two texts. */
struct tn_frame_part {
	int text;                /* 1: the first, 2: the second; 0: ids */
	const uint32_t *ids;
	size_t count;
};

struct tn_frame {
	const struct tn_frame_part *parts;
	size_t count;
};

struct tn_postprocess {
	struct tn_frame single, pair;
};

/* What adds nothing: the texts, one behind the other. */
tn_status tn_postprocess_plain(struct tn_arena *arena, struct tn_postprocess *out, struct tn_error *err);
/* What `json` (NULL or null: nothing) asks for. */
tn_status tn_postprocess_read(struct tn_arena *arena, const json_t *json, const char *where, struct tn_postprocess *out,
			      struct tn_error *err);
/* Tokens before and behind each text, TN_NO_TOKEN for none: `between` stands before the second, `last` behind it. */
tn_status tn_postprocess_around(struct tn_arena *arena, uint32_t first, uint32_t behind, uint32_t between, uint32_t last,
				struct tn_postprocess *out, struct tn_error *err);

/* Appends the frame around the ids of a and b (NULL when it is for one text). */
tn_status tn_frame_apply(const struct tn_frame *frame, const struct tn_id_list *a, const struct tn_id_list *b, int special,
			 struct tn_id_list *out, struct tn_error *err);

#endif
