/* SPDX-License-Identifier: Apache-2.0 */
#include "base/numeral.h"

#include <locale.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static locale_t plain;
static pthread_once_t made = PTHREAD_ONCE_INIT;

/* Lives as long as the process; of a name that every system has, so it needs no file. */
static void make(void)
{
	plain = newlocale(LC_ALL_MASK, "C", (locale_t)0);
}

/* The locale of this thread alone; uselocale with 0 changes nothing, so failing to make one leaves the program's. */
static locale_t enter(void)
{
	pthread_once(&made, make);
	return uselocale(plain);
}

double tn_strtod(const char *text, char **end)
{
	locale_t before = enter();
	double value = strtod(text, end);
	uselocale(before);
	return value;
}

int tn_vsnprintf(char *dst, size_t bytes, const char *fmt, va_list args)
{
	locale_t before = enter();
	int n = vsnprintf(dst, bytes, fmt, args);
	uselocale(before);
	return n;
}

int tn_snprintf(char *dst, size_t bytes, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	int n = tn_vsnprintf(dst, bytes, fmt, args);
	va_end(args);
	return n;
}
