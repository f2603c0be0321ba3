/* Tokens by text and by id, and a trie for finding tokens at a place of a text. */
#ifndef TN_TOKEN_VOCAB_H
#define TN_TOKEN_VOCAB_H

#include "base/text.h"
#include "tenon/tokenizer.h"

struct tn_vocab_text {
	uint32_t at, length;    /* in the pool; at == UINT32_MAX: no token */
};

struct tn_vocab_slot {
	struct tn_vocab_text text;
	uint32_t id;
};

struct tn_vocab {
	tn_context *ctx;
	uint64_t seed;               /* of the hash: taken from the file, so that no file can be written against it */
	struct tn_text pool;
	struct tn_vocab_text *by_id;
	size_t id_capacity;
	uint32_t id_limit;           /* one more than the largest id */
	struct tn_vocab_slot *slots;
	size_t slot_count, count;
};

void tn_vocab_init(struct tn_vocab *vocab, tn_context *ctx, uint64_t seed);
void tn_vocab_release(struct tn_vocab *vocab);

/* A text that is there already gets the new id; an id that is there already gets the new text too. TN_E_LIMIT: an id that is
 * far above the number of tokens. */
tn_status tn_vocab_put(struct tn_vocab *vocab, const char *text, size_t n, uint64_t id, const char *where,
		       struct tn_error *err);
/* TN_NO_TOKEN when there is none. */
uint32_t tn_vocab_find(const struct tn_vocab *vocab, const char *text, size_t n);
/* NULL when there is none. */
const char *tn_vocab_text(const struct tn_vocab *vocab, uint32_t id, size_t *n);

uint64_t tn_token_hash(uint64_t seed, const char *text, size_t n);

/* ---- a trie ---------------------------------------------------------------------------------------------- */

struct tn_trie_node {
	uint32_t child, sibling;    /* 0: none; node 0 is the root */
	uint32_t value;             /* TN_NO_TOKEN: nothing ends here */
	unsigned char byte;
};

struct tn_trie {
	tn_context *ctx;
	struct tn_trie_node *nodes;
	size_t count, capacity;
	uint32_t first[256];        /* the children of the root */
};

void tn_trie_init(struct tn_trie *trie, tn_context *ctx);
void tn_trie_release(struct tn_trie *trie);
/* A text that is there already gets the new value. Empty texts are never found. */
tn_status tn_trie_put(struct tn_trie *trie, const char *text, size_t n, uint32_t value, struct tn_error *err);
/* The node one byte further; 0: none. */
static inline uint32_t tn_trie_step(const struct tn_trie *trie, uint32_t node, unsigned char byte)
{
	if (node == 0)
		return trie->first[byte];
	uint32_t at = trie->nodes[node].child;
	while (at && trie->nodes[at].byte != byte)
		at = trie->nodes[at].sibling;
	return at;
}
/* The longest text of the trie that stands at the beginning of these bytes: its length (0: none), its value in *value. */
size_t tn_trie_longest(const struct tn_trie *trie, const char *text, size_t n, uint32_t *value);

#endif
