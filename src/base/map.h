/* Files as memory, for weights that are computed with again and again: the pages are shared with every process that uses
 * the same file, a base is ready before it is read, and the system may drop pages and read them again. Streaming work
 * reads with base/file.h in place of this.
 *
 * SIGBUS: when a program shortens a mapped file, touching the part that is gone kills this process. So only what has to be
 * addressed at random is mapped (the shards of a live base), the documentation of whoever maps says so, and files are
 * replaced by renaming (as tenon itself does), which leaves a mapping whole. */
#ifndef TN_MAP_H
#define TN_MAP_H

#include "base/file.h"

struct tn_map {
	const unsigned char *bytes;   /* NULL: nothing is mapped */
	size_t count;
};

/* Maps a whole open file read-only; the file may be closed afterwards. `where` names it. TN_E_IO: the system refused, or
 * the file has another size than when it was opened. */
tn_status tn_map_open(const struct tn_file *file, const char *where, struct tn_map *out, struct tn_error *err);
void tn_map_close(struct tn_map *map);

#endif
