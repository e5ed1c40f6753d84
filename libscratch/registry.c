/* SPDX-License-Identifier: Apache-2.0 */
#include "registry.h"

#include "signals.h"

static struct scratch_range *locked(struct scratch_range *range) {
    scratch_lock_acquire(&range->lock);
    return range;
}

struct scratch_range *scratch_registry_find_locked(uintptr_t address) {
    scratch_hold(&scratch_registry.lock);
    size_t position = scratch_registry_position(address);
    struct scratch_range *before = position ? scratch_registry.ranges[position - 1] : NULL;
    bool is_inside = before && address - (uintptr_t)before->address < before->length;
    return is_inside ? locked(before) : NULL;
}

struct scratch_range *scratch_registry_next_locked(uintptr_t address) {
    scratch_hold(&scratch_registry.lock);
    size_t position = address ? scratch_registry_position(address - 1) : 0;
    return position < scratch_registry.count ? locked(scratch_registry.ranges[position]) : NULL;
}

static void take_out(struct scratch_range *range) {
    scratch_hold(&scratch_registry.lock);
    scratch_registry_remove(range);
    scratch_registry.closing++;
}

void scratch_registry_begin_closing(struct scratch_range *range) {
    scratch_without_signals();
    take_out(range);
    /* Whoever found it before holds its lock; nobody finds it any more. */
    scratch_hold(&range->lock);
}

void scratch_registry_abort_closing(struct scratch_range *range) {
    scratch_without_signals();
    scratch_hold(&scratch_registry.lock);
    scratch_registry_insert(range);
    scratch_registry.closing--;
}

void scratch_registry_end_closing(void) {
    scratch_hold(&scratch_registry.lock);
    scratch_registry.closing--;
}
