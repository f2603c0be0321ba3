/* SPDX-License-Identifier: Apache-2.0 */
#include "base/error.h"

#include "base/numeral.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const status_names[] = {
	[TN_OK] = "TN_OK",
	[TN_E_ARG] = "TN_E_ARG",
	[TN_E_NOMEM] = "TN_E_NOMEM",
	[TN_E_IO] = "TN_E_IO",
	[TN_E_FORMAT] = "TN_E_FORMAT",
	[TN_E_LIMIT] = "TN_E_LIMIT",
	[TN_E_UNSUPPORTED] = "TN_E_UNSUPPORTED",
	[TN_E_MISMATCH] = "TN_E_MISMATCH",
	[TN_E_NOTFOUND] = "TN_E_NOTFOUND",
	[TN_E_EXISTS] = "TN_E_EXISTS",
	[TN_E_CANCELLED] = "TN_E_CANCELLED",
};

const char *tn_status_name(tn_status code)
{
	size_t i = (size_t)code;
	return i < sizeof status_names / sizeof *status_names ? status_names[i] : "TN_E_UNKNOWN";
}

const char *tn_version(void)
{
	return TN_VERSION_STRING;
}

/* A name longer than the field keeps its end: the last parts of a path or tensor name tell most. */
static void set_where(struct tn_error *err, const char *where)
{
	size_t room = sizeof err->where, n = where ? strlen(where) : 0;
	if (n < room) {
		memcpy(err->where, where ? where : "", n + 1);
		return;
	}
	memcpy(err->where, "...", 3);
	memcpy(err->where + 3, where + n - (room - 4), room - 3);
}

__attribute__((format(printf, 6, 0)))
static void fill(struct tn_error *err, tn_status code, int sys_errno, const char *where, uint64_t pos, const char *fmt,
		 va_list args)
{
	err->code = code;
	err->sys_errno = sys_errno;
	err->pos = pos;
	set_where(err, where);
	int n = tn_vsnprintf(err->msg, sizeof err->msg, fmt, args);
	if (n < 0 || (size_t)n >= sizeof err->msg)
		memcpy(err->msg + sizeof err->msg - 4, "...", 4);
}

tn_status tn_fail(struct tn_error *err, tn_status code, const char *where, const char *fmt, ...)
{
	if (err) {
		va_list args;
		va_start(args, fmt);
		fill(err, code, 0, where, 0, fmt, args);
		va_end(args);
	}
	return code;
}

tn_status tn_fail_at(struct tn_error *err, tn_status code, const char *where, uint64_t pos, const char *fmt, ...)
{
	if (err) {
		va_list args;
		va_start(args, fmt);
		fill(err, code, 0, where, pos, fmt, args);
		va_end(args);
	}
	return code;
}

tn_status tn_fail_sys(struct tn_error *err, int sys_errno, const char *where, const char *fmt, ...)
{
	tn_status code = sys_errno == ENOENT ? TN_E_NOTFOUND : sys_errno == ENOMEM ? TN_E_NOMEM : TN_E_IO;
	if (err) {
		va_list args;
		va_start(args, fmt);
		fill(err, code, sys_errno, where, 0, fmt, args);
		va_end(args);
		size_t used = strlen(err->msg);
		/* strerror_r of glibc may return static text instead of filling the buffer; both are safe to print. */
		char text[96];
		snprintf(err->msg + used, sizeof err->msg - used, ": %s%s", strerror_r(sys_errno, text, sizeof text),
			 sys_errno == EMFILE ? "; let the process have more of them (ulimit -n)" : "");
	}
	return code;
}

tn_status tn_fail_with(struct tn_error *err, const struct tn_error *caught)
{
	if (err)
		*err = *caught;
	return caught->code;
}

tn_status tn_fail_nomem(struct tn_error *err, const char *what, size_t bytes)
{
	return tn_fail(err, TN_E_NOMEM, what, "could not allocate %zu bytes for %s; free memory or lower the budget", bytes,
		       what);
}
