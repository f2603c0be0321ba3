/* Taking folders away that tenon has made. */
#ifndef TN_REMOVAL_H
#define TN_REMOVAL_H

#include "base/file.h"

/* Removes a folder of files, links, and `depth` levels of folders of such. Never follows a link out of it. Takes nothing from
 * the heap: it clears up after a failure that may be for want of memory. */
tn_status tn_folder_remove(const char *path, int depth, struct tn_error *err);
/* The same for one entry of a folder. */
tn_status tn_folder_remove_entry(const char *folder, const char *name, int depth, struct tn_error *err);

#endif
