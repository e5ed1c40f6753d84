/* SPDX-License-Identifier: Apache-2.0 */
/* What missing pages are made of, and where they are made before anybody sees them. On the pager's thread. */
#ifndef SCRATCH_STAGE_H
#define SCRATCH_STAGE_H

#include "clock.h"
#include "range.h"

enum { SCRATCH_REASON_LENGTH = SCRATCH_HELPER_TEXT };

/* How much of the range is made at a time, and ahead of a reader. */
struct scratch_stream_limits scratch_stage_limits(const struct scratch_range *range);

/*
 * Reads and makes pages [first, first + pages), at most a batch. *ret_bytes is where they are; how many could
 * be made comes back, and if not all of a decoded range, why.
 */
size_t scratch_stage(struct scratch_range *range, size_t first, size_t pages,
                     const unsigned char **ret_bytes, char reason[SCRATCH_REASON_LENGTH]);
/* The same of a decoded range, whole units from `first` on, to memory of the caller's. */
size_t scratch_stage_decoded(struct scratch_range *range, size_t first, size_t pages,
                             unsigned char *to_bytes, char reason[SCRATCH_REASON_LENGTH]);
/* Asks the kernel for the source of what is planned, and in a sequence of what will be. */
void scratch_stage_read_ahead(struct scratch_range *range, const struct scratch_plan *plan);
/* On a new pager: which process this is. */
void scratch_stage_restart(void);

static inline void scratch_count_fixup_time(struct scratch_range *range, uint64_t started) {
    scratch_range_count(range, SCRATCH_FIXUP_NS, scratch_now_ns() - started);
}

#endif
