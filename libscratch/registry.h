/* SPDX-License-Identifier: Apache-2.0 */
/* Who finds a range, and how one is closed while others may be finding it. */
#ifndef SCRATCH_REGISTRY_H
#define SCRATCH_REGISTRY_H

#include "range.h"

/* The range that holds `address`, locked, or NULL. */
struct scratch_range *scratch_registry_find_locked(uintptr_t address);
/* The first range that begins at `address` or above, locked, or NULL. */
struct scratch_range *scratch_registry_next_locked(uintptr_t address);

static inline void scratch_range_leave(struct scratch_range **locked) {
    if (*locked)
        scratch_lock_release(&(*locked)->lock);
}
/* Before the variable that gets one of these: the range is unlocked at the end of the block. */
#define SCRATCH_UNLOCKS_RANGE __attribute__((cleanup(scratch_range_leave)))

/* From the first of these on nobody finds it; then it comes back, or its owner frees it. */
void scratch_registry_begin_closing(struct scratch_range *range);
void scratch_registry_abort_closing(struct scratch_range *range);
void scratch_registry_end_closing(void);

#endif
