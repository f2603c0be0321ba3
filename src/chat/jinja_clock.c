/* SPDX-License-Identifier: Apache-2.0 */
#include "chat/jinja_clock.h"

#include "chat/jinja_print.h"

#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int is_leap(int year)
{
	return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

/* The day of the week and of the year, without the time zone that mktime would ask the environment for. */
static void fill_days(struct tm *tm)
{
	static const int before[] = { 0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334 };
	int year = tm->tm_year + 1900, last = year - 1;
	tm->tm_yday = before[tm->tm_mon] + tm->tm_mday - 1 + (tm->tm_mon > 1 && is_leap(year));
	tm->tm_wday = (1 + 365 * last + last / 4 - last / 100 + last / 400 + tm->tm_yday) % 7;
}

static int days_of(int year, int month)
{
	static const int days[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
	return days[month] + (month == 1 && is_leap(year));
}

static int take(const char **p, int digits, char before, int *out)
{
	if (before && *(*p)++ != before)
		return 0;
	for (*out = 0; digits; digits--, ++*p) {
		if (**p < '0' || **p > '9')
			return 0;
		*out = *out * 10 + (**p - '0');
	}
	return 1;
}

/* "2026-11-21T18:30:00", with 'T' or a blank, and perhaps with a fraction. */
static int read_now(const char *p, struct tm *tm, int *micro)
{
	*tm = (struct tm){ .tm_isdst = -1 };
	*micro = 0;
	if (!take(&p, 4, '\0', &tm->tm_year) || !take(&p, 2, '-', &tm->tm_mon) || !take(&p, 2, '-', &tm->tm_mday))
		return 0;
	if (*p && (!take(&p, 2, *p == ' ' ? ' ' : 'T', &tm->tm_hour) || !take(&p, 2, ':', &tm->tm_min)))
		return 0;
	if (*p && !take(&p, 2, ':', &tm->tm_sec))
		return 0;
	if (*p == '.') {
		int unit = 100000;
		for (p++; *p >= '0' && *p <= '9'; p++, unit /= 10)
			*micro += unit * (*p - '0');
	}
	tm->tm_mon--;
	if (*p || tm->tm_year < 1 || tm->tm_mon < 0 || tm->tm_mon > 11 || tm->tm_mday < 1 ||
	    tm->tm_mday > days_of(tm->tm_year, tm->tm_mon) || tm->tm_hour > 23 || tm->tm_min > 59 || tm->tm_sec > 59)
		return 0;
	tm->tm_year -= 1900;
	fill_days(tm);
	return 1;
}

tn_status tn_jinja_check_now(const char *now, struct tn_error *err)
{
	struct tm tm;
	int micro;
	if (read_now(now, &tm, &micro))
		return TN_OK;
	return tn_fail(err, TN_E_ARG, "now", "'%.60s' is no local time; write it as 2026-11-21T18:30:00", now);
}

/* Python itself replaces %f, %z and %Z; the clock has no time zone. */
static tn_status replace_own(struct tn_j *j, const struct tn_jstr *format, int micro, struct tn_jbuffer *out)
{
	for (size_t i = 0; i < format->bytes; i++) {
		char c = format->text[i], next = i + 1 < format->bytes ? format->text[i + 1] : '\0';
		if (c == '%' && next) {
			char text[16];
			snprintf(text, sizeof text, "%06d", micro);
			if (next == 'f')
				TN_TRY(tn_jb_puts(j, out, text));
			else if (next != 'z' && next != 'Z')
				TN_TRY(tn_jb_add(j, out, format->text + i, 2));
			i++;
		} else if (c) {
			TN_TRY(tn_jb_add(j, out, &c, 1));
		}
	}
	return tn_jb_add(j, out, "", 1);
}

tn_status tn_j_strftime(struct tn_j *j, const struct tn_jstr *format, struct tn_jv *out)
{
	enum { MOST = 1 << 16 };
	struct tm tm;
	struct tn_jbuffer form = { 0 };
	char *text = NULL;
	int micro;
	if (!read_now(j->now, &tm, &micro))
		return tn_j_fail(j, TN_E_ARG, "'%.60s' is no local time", j->now);
	TN_TRY(replace_own(j, format, micro, &form));
	if (form.length == 1)
		return tn_j_text(j, "", out);
	if (form.length > MOST / 64)
		return tn_j_fail(j, TN_E_LIMIT, "the format of a date has %zu bytes", form.length);
	TN_TRY(tn_j_alloc(j, MOST, &text));
	locale_t plain = newlocale(LC_ALL_MASK, "C", (locale_t)0);
	if (!plain)
		return tn_fail_nomem(j->err, "locale", 0);
	size_t n = strftime_l(text, MOST, form.data, &tm, plain);
	freelocale(plain);
	return tn_j_string(j, text, n, out);
}
