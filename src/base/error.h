/* Making errors. Every message says what was found, what was expected and what to do. */
#ifndef TN_ERROR_H
#define TN_ERROR_H

#include "tenon/base.h"

/* Fills *err (may be NULL) and returns `code`. `where` may be NULL. */
tn_status tn_fail(struct tn_error *err, tn_status code, const char *where, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* The same at a byte position of the file or text that `where` names. */
tn_status tn_fail_at(struct tn_error *err, tn_status code, const char *where, uint64_t pos, const char *fmt, ...)
	__attribute__((format(printf, 5, 6)));

/* The same for a failed system call: ": strerror(sys_errno)" is appended; ENOENT makes it TN_E_NOTFOUND, ENOMEM
 * TN_E_NOMEM, else TN_E_IO. */
tn_status tn_fail_sys(struct tn_error *err, int sys_errno, const char *where, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* Out of memory for `bytes` bytes of `what`. */
tn_status tn_fail_nomem(struct tn_error *err, const char *what, size_t bytes);

/* Hands on an error that was caught in a struct of its own, because some codes of it are no failure here: what succeeds leaves *err
 * (may be NULL) alone. */
tn_status tn_fail_with(struct tn_error *err, const struct tn_error *caught);

/* Returns from the calling function when `expr` fails. */
#define TN_TRY(expr)                           \
	do {                                   \
		tn_status try_status_ = (expr); \
		if (try_status_ != TN_OK)      \
			return try_status_;    \
	} while (0)

#endif
