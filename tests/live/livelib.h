/* What the tests of live bases share: a base and an adapter opened, products against sums in double. */
#ifndef LIVELIB_H
#define LIVELIB_H

#include "testlib.h"

#include "tenon/tenon.h"

/* A live base. */
struct live_base {
	tn_checkpoint *checkpoint;
	tn_live *live;
};
void live_open(struct tt *t, const char *folder, struct live_base *out);
void live_close(struct live_base *base);
tn_adapter *live_adapter(struct tt *t, const char *folder);

/* All rows of a module (of a stack: of all experts) in double: of the base edited by the adapters ("" ends the list; the
 * weights are theirs), as a fuse computes them before it rounds. The caller frees them. */
double *live_truth(struct tt *t, const struct live_base *base, size_t module, const struct tn_weighted_adapter *adapters,
		   size_t count);

/* m rows of x in [-1, 1], from a seed. The caller frees them. */
float *live_x(size_t m, size_t in, uint64_t seed);

/* Calls tn_snapshot_forward with scratch of its own. y [m, out]; the caller frees it. */
float *live_forward(const tn_snapshot *s, const tn_live *live, size_t module, uint64_t expert, size_t m, const float *x,
		    const size_t *adapter_of_row);

/* The largest error of y [m, out] against x w^T + bias in double, w [out, in], relative to the largest element of row t's
 * result. bias may be NULL. */
double live_error(const float *y, const float *x, const double *w, const float *bias, size_t m, size_t out, size_t in);

/* A base of two modules [LIVE_OUT, LIVE_IN] and PEFT adapters for them of random numbers. */
enum { LIVE_OUT = 384, LIVE_IN = 256, LIVE_RANK = 24 };
#define LIVE_Q "model.layers.0.self_attn.q_proj"
#define LIVE_V "model.layers.0.self_attn.v_proj"
void live_write_base(const char *folder);
void live_write_adapter(const char *folder, int dora, uint64_t seed);

#endif
