/* The sixteen levels of NF4. */
#ifndef TN_NF4_H
#define TN_NF4_H

extern const float tn_nf4_levels[16];

#endif
