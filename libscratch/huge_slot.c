/* SPDX-License-Identifier: Apache-2.0 */
#include "huge_slot.h"

#include <sys/mman.h>

#include "free_lazily.h"
#include "look.h"
#include "merging.h"
#include "uapi.h"
#include "word.h"

static unsigned char *page_at(const struct scratch_huge_slot *slot, size_t page) {
    return slot->pages.address + page * scratch_page_size();
}

void scratch_huge_slot_populate(struct scratch_huge_slot *slot) {
    unsigned char *address = slot->pages.address;
    scratch_refuse_merging(address, SCRATCH_HUGE_BYTES); /* but for one its pages may be like others */
    madvise(address, SCRATCH_HUGE_BYTES, MADV_HUGEPAGE);
    if (madvise(address, SCRATCH_HUGE_BYTES, MADV_POPULATE_WRITE))
        scratch_word_store(address, 0); /* before Linux 5.14: the first store has it all, if it is huge */
    /* If that fails huge pages may be made of small ones later: so it doesn't count as one. */
    bool stays_as_it_is = !madvise(address, SCRATCH_HUGE_BYTES, MADV_NOHUGEPAGE);
    slot->is_huge = stays_as_it_is && scratch_is_mapped_huge(address);
}

void scratch_huge_slot_put_canaries(struct scratch_huge_slot *slot) {
    if (!slot->is_huge) {
        scratch_purgeable_put_canaries(&slot->pages);
        return;
    }
    slot->displaced = scratch_word_load(slot->pages.address);
    scratch_word_store(slot->pages.address, slot->pages.canary);
}

void scratch_huge_slot_make_young(const struct scratch_huge_slot *slot) {
    if (slot->is_huge)
        scratch_word_load(slot->pages.address);
    else
        scratch_purgeable_make_young(&slot->pages);
}

int scratch_huge_slot_release(struct scratch_huge_slot *slot, bool was_used) {
    scratch_huge_slot_put_canaries(slot);
    int error = scratch_free_lazily(slot->pages.address, SCRATCH_HUGE_BYTES);
    if (!error && was_used)
        scratch_huge_slot_make_young(slot);
    return error;
}

static bool is_used(const struct scratch_huge_slot *slot, size_t page) {
    return slot->used[page / 64] >> page % 64 & 1;
}

/* First it is made dirty: what is found in it after that stays. */
static bool is_kept(unsigned char *page) {
    const uint64_t *words = (const uint64_t *)page;
    scratch_word_make_dirty(page);
    for (size_t index = 0; index < scratch_page_size() / sizeof *words; index++) {
        if (words[index])
            return true;
    }
    return false;
}

static bool is_kept_page_by_page(const struct scratch_huge_slot *slot) {
    /* The first one held the canary, and is dirty since. */
    for (size_t page = 1; page < slot->pages.pages; page++) {
        if (is_used(slot, page) && !is_kept(page_at(slot, page)))
            return false;
    }
    return true;
}

bool scratch_huge_slot_pin(struct scratch_huge_slot *slot) {
    const struct scratch_purgeable *pages = &slot->pages;
    if (!slot->is_huge)
        return scratch_purgeable_pin(pages, 0, pages->pages);
    /* A load first: see purgeable.c. */
    if (scratch_word_load(pages->address) != pages->canary ||
        scratch_word_compare_exchange(pages->address, pages->canary, slot->displaced) !=
            pages->canary)
        return false;
    slot->is_huge = scratch_is_mapped_huge(pages->address);
    return slot->is_huge || is_kept_page_by_page(slot);
}

bool scratch_huge_slot_is_whole(const struct scratch_huge_slot *slot) {
    unsigned char resident;
    if (!slot->is_huge)
        return scratch_purgeable_is_whole(&slot->pages);
    return !mincore(slot->pages.address, scratch_page_size(), &resident) && resident & 1;
}

void scratch_huge_slot_note(struct scratch_huge_slot *slot, size_t first, size_t count, bool is_used) {
    for (size_t page = first; page < first + count; page++) {
        uint64_t bit = (uint64_t)1 << page % 64;
        slot->used[page / 64] = is_used ? slot->used[page / 64] | bit : slot->used[page / 64] & ~bit;
    }
}
