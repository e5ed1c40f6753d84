/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the pager does with its userfaultfd: who serves a page fault, the first store to a page,
 * re-arming. Everything here runs on the pager's thread, but for the probe.
 */
#ifndef SCRATCH_USERFAULT_H
#define SCRATCH_USERFAULT_H

#include "range.h"
#include "uapi.h"

struct scratch_userfault {
    int descriptor; /* -1 if there is none */
    bool system_calls;
    bool write_protect;
    bool poison;
};

/* 0 or an errno value. */
int scratch_userfault_open(struct scratch_userfault *ret);
int scratch_userfault_register(const struct scratch_userfault *userfault,
                               const struct scratch_range *range);
/* `is_late`: others were served since it was read. */
void scratch_userfault_serve(const struct scratch_userfault *userfault, const struct uffd_msg *message,
                             uint64_t now, bool is_late);

/* Re-arms pages [first, end) of a range whose lock the caller does not hold. */
void scratch_userfault_rearm(const struct scratch_userfault *userfault, struct scratch_range *range,
                             size_t first, size_t end);
/* Re-arms what is due; the time of the next that will be, or 0 if no page is marked. */
uint64_t scratch_userfault_rearm_due(const struct scratch_userfault *userfault, uint64_t now);
void scratch_userfault_forget_marks(void);
/* Has the kernel been told to merge all memory of the process? Then ours is taken out again. */
void scratch_userfault_look_for_merging(const struct scratch_userfault *userfault);
void scratch_userfault_look_for_merging_at_times(const struct scratch_userfault *userfault,
                                                 uint64_t now);
void scratch_userfault_wake(const struct scratch_userfault *userfault, uintptr_t address,
                            size_t length);
int scratch_userfault_write_protect(const struct scratch_userfault *userfault, uintptr_t address,
                                    size_t length, bool protect);
/* Lets the kernel drop pages, from the next `scratch_userfault_drain` on. */
void scratch_userfault_free_lazily(void *address, size_t length);
/* Sees to it that what was freed is droppable, by reclaim on any processor. */
void scratch_userfault_drain(void);

#endif
