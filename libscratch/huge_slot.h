/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Purgeable memory in huge pages: 2 MiB with one canary, for what would take 512 of them.
 *
 * What is mapped by one entry has one dirty bit, and is dropped or kept whole. So to take a slot back:
 *
 *   1. the word is exchanged for the canary, which makes all of it dirty if it is one page;
 *   2. then, and not before, one looks whether it is mapped by one entry. If so it was at 1, because
 *      nothing makes a huge page of small ones here: the slot may have huge pages (MADV_HUGEPAGE) while it
 *      is populated, and never again (MADV_NOHUGEPAGE). Then it is whole, and stays.
 *   3. If not, the kernel has split it at some time, and may have taken any part. So each page is made
 *      dirty first, by adding 0 to a word, and then must hold something: a page of zeros is one that was
 *      dropped, or may be (pages that never held anything else are left out). From then on each page has
 *      its own canary, as in purgeable.h.
 *
 * None of that depends on how the kernel splits, or on what it drops of what is split.
 */
#ifndef SCRATCH_HUGE_SLOT_H
#define SCRATCH_HUGE_SLOT_H

#include <stdbool.h>
#include <stdint.h>

#include "base.h"
#include "purgeable.h"

enum { SCRATCH_HUGE_SLOT_WORDS = SCRATCH_HUGE_BYTES / 4096 / 64 };

struct scratch_huge_slot {
    struct scratch_purgeable pages; /* 2 MiB from a multiple of that on; `displaced` once it isn't huge */
    uint64_t displaced;             /* by the one canary */
    bool is_huge;                   /* it was when one last looked: released with one canary */
    uint64_t used[SCRATCH_HUGE_SLOT_WORDS]; /* a bit a page: in it is something but zeros */
};

/* Fresh memory, of which nobody has anything yet: in one huge page, if there is one. Sets `is_huge`. */
void scratch_huge_slot_populate(struct scratch_huge_slot *slot);

/* As of purgeable.h. Releasing a slot that isn't huge takes `pages.displaced`. */
int scratch_huge_slot_release(struct scratch_huge_slot *slot, bool was_used);
void scratch_huge_slot_put_canaries(struct scratch_huge_slot *slot);
void scratch_huge_slot_make_young(const struct scratch_huge_slot *slot);
bool scratch_huge_slot_pin(struct scratch_huge_slot *slot);
bool scratch_huge_slot_is_whole(const struct scratch_huge_slot *slot);

/* From `first` on `count` pages hold something but zeros, or don't, or nobody wants it. */
void scratch_huge_slot_note(struct scratch_huge_slot *slot, size_t first, size_t count, bool is_used);

#endif
