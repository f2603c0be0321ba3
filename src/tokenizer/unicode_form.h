/* Unicode's four normalization forms. */
#ifndef TN_UNICODE_FORM_H
#define TN_UNICODE_FORM_H

#include "tokenizer/token_work.h"

enum { TN_FORM_COMPOSED = 1, TN_FORM_COMPATIBLE = 2 };

/* Appends NFD, NFC (composed), NFKD (compatible) or NFKC (both) of n bytes, in linear time but for long runs of marks. */
tn_status tn_unicode_form(struct tn_work *work, const char *text, size_t n, unsigned form, struct tn_text *out,
			  struct tn_error *err);

#endif
