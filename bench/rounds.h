/* What measuring programs share: clocks, medians, and rounds in turns with a limit. */
#ifndef BENCH_ROUNDS_H
#define BENCH_ROUNDS_H

#include <math.h>
#include <stdlib.h>
#include <time.h>

enum { MOST_ROUNDS = 101 };

static inline double clock_seconds(clockid_t which)
{
	struct timespec t;
	clock_gettime(which, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static inline int compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

/* Sorts them. */
static inline double median(double *values, size_t n)
{
	qsort(values, n, sizeof *values, compare_doubles);
	return values[n / 2];
}

/* Rounds that count, each with the shorter of the limits before and after it. */
struct rounds {
	size_t count;
	double ratio[MOST_ROUNDS], time[MOST_ROUNDS], limit_time[MOST_ROUNDS];
};

/* Takes turns until `wanted` rounds were steady: the limits before and after agree within a tenth. 0: most were not. */
static inline int take_rounds(struct rounds *r, size_t wanted, double (*ours)(void *arg), double (*limit)(void *arg), void *arg)
{
	r->count = 0;
	ours(arg);
	double before = limit(arg);
	for (size_t tried = 0; r->count < wanted && tried < 4 * wanted; tried++) {
		double seconds = ours(arg), after = limit(arg), least = before < after ? before : after;
		int is_steady = fabs(before - after) <= 0.1 * least;
		before = after;
		if (!is_steady)
			continue;
		r->time[r->count] = seconds;
		r->limit_time[r->count] = least;
		r->ratio[r->count++] = least / seconds;
	}
	return r->count > wanted / 2;
}

#endif
