/* SPDX-License-Identifier: Apache-2.0 */
#include "registry.h"

#include "signals.h"

struct scratch_range *scratch_registry_find_locked(uintptr_t address) {
    struct scratch_range *found = NULL;
    scratch_lock_acquire(&scratch_registry.lock);
    size_t position = scratch_registry_position(address);
    struct scratch_range *before = position ? scratch_registry.ranges[position - 1] : NULL;
    if (before && address - (uintptr_t)before->address < before->length) {
        found = before;
        scratch_lock_acquire(&found->lock);
    }
    scratch_lock_release(&scratch_registry.lock);
    return found;
}

struct scratch_range *scratch_registry_next_locked(uintptr_t address) {
    struct scratch_range *next = NULL;
    scratch_lock_acquire(&scratch_registry.lock);
    size_t position = address ? scratch_registry_position(address - 1) : 0;
    if (position < scratch_registry.count) {
        next = scratch_registry.ranges[position];
        scratch_lock_acquire(&next->lock);
    }
    scratch_lock_release(&scratch_registry.lock);
    return next;
}

void scratch_registry_begin_closing(struct scratch_range *range) {
    sigset_t signals;
    scratch_signals_block(&signals);
    scratch_lock_acquire(&scratch_registry.lock);
    scratch_registry_remove(range);
    scratch_registry.closing++;
    scratch_lock_release(&scratch_registry.lock);
    /* Whoever found it before holds its lock; nobody finds it any more. */
    scratch_lock_acquire(&range->lock);
    scratch_lock_release(&range->lock);
    scratch_signals_restore(&signals);
}

void scratch_registry_abort_closing(struct scratch_range *range) {
    sigset_t signals;
    scratch_signals_block(&signals);
    scratch_lock_acquire(&scratch_registry.lock);
    scratch_registry_insert(range);
    scratch_registry.closing--;
    scratch_lock_release(&scratch_registry.lock);
    scratch_signals_restore(&signals);
}

void scratch_registry_end_closing(void) {
    scratch_lock_acquire(&scratch_registry.lock);
    scratch_registry.closing--;
    scratch_lock_release(&scratch_registry.lock);
}
