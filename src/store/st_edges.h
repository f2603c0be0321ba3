/* Pages of a file that blocks share. A direct write takes whole pages: the block that comes first leaves its bytes of such a
 * page here, and the one that comes last writes it. */
#ifndef TN_ST_EDGES_H
#define TN_ST_EDGES_H

#include "base/context.h"
#include "base/direct.h"

struct tn_edges;

/* NULL is no edges: nothing can be left. */
tn_status tn_edges_create(tn_context *ctx, struct tn_edges **out, struct tn_error *err);
void tn_edges_free(struct tn_edges *edges);

typedef enum tn_edge {
	TN_EDGE_LEFT,     /* the bytes are kept */
	TN_EDGE_WHOLE,    /* with them the page is complete: it is in `page`, and no longer kept */
	TN_EDGE_REFUSED,  /* there is no room, or they are not beside what is kept: the caller writes them */
} tn_edge;

/* n bytes at `offset`, all in one page. Thread-safe. */
tn_edge tn_edges_leave(struct tn_edges *edges, const void *src, size_t n, uint64_t offset, void *page);

/* Takes one of those out that nobody came for; 0 when there is none. `bytes` are TN_DIRECT_PAGE, of which *n are for *offset. */
int tn_edges_take(struct tn_edges *edges, unsigned char *bytes, size_t *n, uint64_t *offset);

#endif
