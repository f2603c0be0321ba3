/* The time that strftime_now shows: it is given, never read. */
#ifndef TN_JINJA_CLOCK_H
#define TN_JINJA_CLOCK_H

#include "chat/jinja_value.h"

/* datetime.strftime of j->now. */
tn_status tn_j_strftime(struct tn_j *j, const struct tn_jstr *format, struct tn_jv *out);
/* TN_E_ARG when `now` is no local time in the form of tn_chat_request. */
tn_status tn_jinja_check_now(const char *now, struct tn_error *err);

#endif
