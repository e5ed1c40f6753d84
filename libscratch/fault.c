/* SPDX-License-Identifier: Apache-2.0 */
#include "fault.h"

#include "check.h"
#include "drop.h"
#include "fill.h"
#include "page_in.h"
#include "rearm.h"
#include "registry.h"
#include "tell.h"
#include "waiting.h"

/*
 * From now on the kernel itself refuses stores, as in any read-only memory; a huge page can't be moved in
 * any more.
 */
static void close_to_stores(struct scratch_range *range) {
    mprotect(range->address, range->length, PROT_READ);
    range->takes_huge_pages = false;
}

/*
 * A thread's own store: SIGBUS, and a message. In a system call it may be a store (read), which then gets
 * EFAULT; but to lock memory, or to fill it ahead, the kernel also asks for pages that can be written
 * wherever memory is writable. It looks again when the pager has answered: in read-only memory mlock and
 * mlockall make pages to be read, and MADV_POPULATE_WRITE is refused.
 */
static void refuse_store(const struct scratch_userfault *userfault, struct scratch_range *range,
                         size_t page, pid_t thread) {
    uintptr_t address = (uintptr_t)range->address + page * scratch_page_size();
    bool is_poisoned = false;
    if (scratch_waits_outside_of_system_calls(thread)) {
        scratch_tell(
            "mapscratch: something stored into the array of %s, which is read-only (page %zu): give "
            "it a copy, np.array(a). help(mapscratch.array) names libraries that do so\n",
            range->name, page);
        /* Only what is missing can be poisoned; what is pinned or locked stays. */
        is_poisoned = !scratch_discard_pages(range, page, 1) &&
                      !scratch_userfault_poison(userfault, address);
    }
    if (!is_poisoned)
        close_to_stores(range);
    scratch_wake_pages(userfault, range, page, page + 1);
}

/* The aligned block of pages that is opened to stores with `page`. */
static void store_around(const struct scratch_range *range, size_t page, size_t *ret_first,
                         size_t *ret_end) {
    size_t around = scratch_settings.fault_around_pages;
    *ret_first = page & ~(around - 1);
    *ret_end = *ret_first + around;
    if (*ret_end > scratch_range_pages(range))
        *ret_end = scratch_range_pages(range);
}

/* The first store since the pages were armed; under the range's lock. */
static void allow_stores(const struct scratch_userfault *userfault, struct scratch_range *range,
                         size_t page, size_t *ret_first, size_t *ret_end) {
    size_t page_size = scratch_page_size();
    store_around(range, page, ret_first, ret_end);
    scratch_check_event(range, page, 1, SCRATCH_EVENT_STORE);
    scratch_userfault_write_protect(userfault, (uintptr_t)range->address + *ret_first * page_size,
                                    (*ret_end - *ret_first) * page_size,
                                    false); /* wakes who waits */
}

/* True if a mark had to give way to a new one: see `scratch_rearm_later`. */
static bool serve(const struct scratch_userfault *userfault, const struct uffd_msg *message,
                  uint64_t now, bool is_late, struct scratch_mark *ret_displaced) {
    size_t page_size = scratch_page_size();
    uintptr_t address = message->arg.pagefault.address & ~(page_size - 1);
    bool is_store_to_armed = message->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP;
    bool for_store = message->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE;
    SCRATCH_UNLOCKS_RANGE struct scratch_range *range = scratch_registry_find_locked(address);
    if (!range) {
        /* Being closed: whoever waits faults again, until the close has ended one way or other. */
        scratch_userfault_wake(userfault, address, page_size);
        return false;
    }
    bool is_writable = range->protection & PROT_WRITE;
    size_t page = (address - (uintptr_t)range->address) / page_size;
    size_t first = page, end = page;
    if (is_store_to_armed && !is_writable)
        refuse_store(userfault, range, page, (pid_t)message->arg.pagefault.feat.ptid);
    else if (is_store_to_armed)
        allow_stores(userfault, range, page, &first, &end);
    else
        scratch_page_in(userfault, range, page, for_store, is_late, &first, &end);
    return (is_store_to_armed || for_store) && is_writable &&
           scratch_rearm_later(range, (uintptr_t)range->address + first * page_size,
                               (end - first) * page_size, now, ret_displaced);
}

void scratch_fault_serve(const struct scratch_userfault *userfault, const struct uffd_msg *message,
                         uint64_t now, bool is_late) {
    struct scratch_mark displaced;
    if (message->event == UFFD_EVENT_PAGEFAULT &&
        serve(userfault, message, now, is_late, &displaced))
        scratch_rearm_mark(userfault, &displaced);
}
