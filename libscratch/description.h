/* SPDX-License-Identifier: Apache-2.0 */
/* What a caller says of the range that it wants. */
#ifndef SCRATCH_DESCRIPTION_H
#define SCRATCH_DESCRIPTION_H

#include <stddef.h>
#include <sys/types.h>

#include "decode.h"
#include "wordtable.h"

struct scratch_description {
    void *address; /* page-aligned; a private file mapping that the range takes over */
    size_t length; /* bytes; the last page may be incomplete */
    int protection;
    int source_fd;      /* the file, for `lazyfree` and `kernel`; not kept */
    off_t source_offset; /* where in it the range begins */
    const char *name;   /* for messages; copied */
    const struct scratch_word_table *fixup; /* only `lazyfree`; copied; may be NULL */
    const struct scratch_decoding *decoding; /* in place of `fixup`; then `source_offset` is any byte */
    size_t lock_length; /* only `dontneed`: this much from the start is locked on fault */
};

#endif
