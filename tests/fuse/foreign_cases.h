/* Checkpoints of other libraries for the tests of fuse: their weights, and adapters for them. */
#ifndef FOREIGN_CASES_H
#define FOREIGN_CASES_H

#include "fuselib.h"

#include <jansson.h>

/* A module's weight and the step of its grid at every value: flat, `rows` of `cols`. */
struct foreign_values {
	uint64_t rows, cols;
	size_t count;
	float *w, *step;
	float *low, *high;     /* the ends of the grid at every value */
	int scales_by_row;
	char weight[256];      /* name of the weight when dense */
};
struct foreign_values foreign_values(struct tt *t, const char *folder, const char *module);
void foreign_free(struct foreign_values *values);

/* An mlx-lm adapter of that rank for the module, the same for the same shape but for its scale. `gain` is 0, or what the norms
 * of W + D are multiplied by as magnitudes of a DoRA. `wanted` [count] is the change that it asks for. */
void foreign_adapter(struct tt *t, const char *folder, const char *module, const struct foreign_values *base, uint64_t rank,
		     double scale, double gain, double *wanted);

#endif
