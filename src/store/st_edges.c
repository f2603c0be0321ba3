/* SPDX-License-Identifier: Apache-2.0 */
#include "store/st_edges.h"

#include "base/error.h"

#include <pthread.h>
#include <string.h>

/* Neighbours come soon after each other, but for the first and last page of a tensor whose neighbour is another's turn. */
enum { PAGE = TN_DIRECT_PAGE, ROOM = 32 };

struct edge {
	uint64_t offset;
	size_t n;                       /* 0: free */
};

struct tn_edges {
	tn_context *ctx;
	pthread_mutex_t lock;
	struct edge edges[ROOM];
	unsigned char *pages;           /* of all edges; NULL until one is left */
};

tn_status tn_edges_create(tn_context *ctx, struct tn_edges **out, struct tn_error *err)
{
	struct tn_edges *e;
	TN_TRY(tn_alloc_array(ctx, 1, sizeof *e, "edges of blocks", &e, err));
	e->ctx = ctx;
	pthread_mutex_init(&e->lock, NULL);
	*out = e;
	return TN_OK;
}

void tn_edges_free(struct tn_edges *e)
{
	if (!e)
		return;
	pthread_mutex_destroy(&e->lock);
	tn_free(e->ctx, e->pages, ROOM * PAGE);
	tn_free(e->ctx, e, sizeof *e);
}

static unsigned char *page_of(const struct tn_edges *e, const struct edge *edge)
{
	return e->pages + (size_t)(edge - e->edges) * PAGE;
}

/* The one of that page, else a free one, else NULL. */
static struct edge *find(struct tn_edges *e, uint64_t page)
{
	struct edge *room = NULL;
	for (size_t i = 0; i < ROOM; i++) {
		if (!e->edges[i].n)
			room = &e->edges[i];
		else if (e->edges[i].offset / PAGE == page)
			return &e->edges[i];
	}
	return room;
}

static tn_edge leave(struct tn_edges *e, const void *src, size_t n, uint64_t offset, void *page)
{
	struct edge *found = find(e, offset / PAGE);
	if (!found || (!e->pages && tn_alloc(e->ctx, ROOM * PAGE, "edges of blocks", &e->pages, NULL) != TN_OK))
		return TN_EDGE_REFUSED;
	if (!found->n) {
		found->offset = offset;
		found->n = n;
		memcpy(page_of(e, found) + offset % PAGE, src, n);
		return TN_EDGE_LEFT;
	}
	int before = offset + n == found->offset, behind = found->offset + found->n == offset;
	if (!before && !behind)
		return TN_EDGE_REFUSED;
	memcpy(page_of(e, found) + offset % PAGE, src, n);
	found->offset = before ? offset : found->offset;
	found->n += n;
	if (found->n < PAGE)
		return TN_EDGE_LEFT;
	memcpy(page, page_of(e, found), PAGE);
	found->n = 0;
	return TN_EDGE_WHOLE;
}

tn_edge tn_edges_leave(struct tn_edges *e, const void *src, size_t n, uint64_t offset, void *page)
{
	pthread_mutex_lock(&e->lock);
	tn_edge result = leave(e, src, n, offset, page);
	pthread_mutex_unlock(&e->lock);
	return result;
}

int tn_edges_take(struct tn_edges *e, unsigned char *bytes, size_t *n, uint64_t *offset)
{
	for (size_t i = 0; e && i < ROOM; i++) {
		struct edge *edge = &e->edges[i];
		if (!edge->n)
			continue;
		*n = edge->n;
		*offset = edge->offset;
		memcpy(bytes, page_of(e, edge) + edge->offset % PAGE, edge->n);
		edge->n = 0;
		return 1;
	}
	return 0;
}
