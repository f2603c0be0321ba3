/* Where the layer number stands in a path, for the mixed recipes. */
#ifndef TN_RECIPE_H
#define TN_RECIPE_H

#include <stdint.h>

/* Position of the first part of the path (between dots) that is a number; of the last part when none is. */
uint32_t tn_recipe_layer_component(const char *path);

/* The number at that position, 0 when the path is shorter. Returns 0 when something else than a number stands there. */
int tn_recipe_layer_index(const char *path, uint32_t layer_component, uint32_t *out);

/* What mlx-lm calls down_proj: experts that stand one by one as w1, w2, w3 are renamed there. */
int tn_recipe_is_down(const char *path);

#endif
