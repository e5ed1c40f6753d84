/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Re-arming: letting the kernel drop pages again that were stored to. Such pages are marked, and a run of
 * them is re-armed at once when it is due. On the pager's thread.
 */
#ifndef SCRATCH_REARM_H
#define SCRATCH_REARM_H

#include "range.h"
#include "userfault.h"

/* Stored-to pages that wait to be re-armed. */
struct scratch_mark {
    uintptr_t address;
    size_t length;
    uint64_t deadline;
};

/*
 * Marks pages of a range, under its lock. True if an older mark had to give way: the caller re-arms that
 * when it holds no lock.
 */
bool scratch_rearm_later(const struct scratch_range *range, uintptr_t address, size_t length,
                         uint64_t now, struct scratch_mark *ret_displaced);
/* These take the lock of the range. */
void scratch_rearm_mark(const struct scratch_userfault *userfault, const struct scratch_mark *mark);
void scratch_rearm(const struct scratch_userfault *userfault, struct scratch_range *range,
                   size_t first, size_t end);
/* Re-arms what is due; the time of the next that will be, or 0 if no page is marked. */
uint64_t scratch_rearm_due(const struct scratch_userfault *userfault, uint64_t now);
void scratch_rearm_forget_marks(void);
/* Looks, but not too often, whether the kernel merges our pages, and then takes them out again. */
void scratch_rearm_merged_at_times(const struct scratch_userfault *userfault, uint64_t now);

#endif
