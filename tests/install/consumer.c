/* SPDX-License-Identifier: Apache-2.0 */
#include <tenon/tenon.h>

#include <stdio.h>

int main(void)
{
	tn_context *ctx;
	struct tn_error err;
	if (tn_context_create(NULL, &ctx, &err) != TN_OK)
		return 1;
	printf("%s\n", tn_version());
	tn_context_destroy(ctx);
	return 0;
}
