/* SPDX-License-Identifier: Apache-2.0 */
/* The memory of a range of `lazyfree`, and the mapping of what it is made of. */
#ifndef SCRATCH_LAZYFREE_H
#define SCRATCH_LAZYFREE_H

#include "range.h"

/* Before the range has memory: what is copied of the description. False: there is no memory. */
bool scratch_lazyfree_allocate(struct scratch_range *range,
                               const struct scratch_description *description);
/* Maps the file; 0 or an errno value, EINVAL for a decoding that doesn't fit into the pager's buffers. */
int scratch_lazyfree_open_source(struct scratch_range *range,
                                 const struct scratch_description *description);
/* Maps anonymous memory over the range, in place of what is there. */
int scratch_lazyfree_map(struct scratch_range *range);

#endif
