/* SPDX-License-Identifier: Apache-2.0 */
#include "purgeable.h"

#include <sys/mman.h>

#include "base.h"
#include "free_lazily.h"
#include "uapi.h"
#include "word.h"

enum { PAGES_AT_ONCE = 1024 };

static unsigned char *page_at(const struct scratch_purgeable *run, size_t page) {
    return run->address + page * scratch_page_size();
}

/* Odd, so never 0; another one for each page, so that no two pages are equal, which KSM would merge. */
static uint64_t canary_of(const struct scratch_purgeable *run, size_t page) {
    return (run->canary + 2 * page) | 1;
}

/*
 * MADV_FREE makes pages old, and doesn't move them behind others that were freed later. A load makes
 * them young without making them dirty, and reclaim passes once over what is young.
 */
void scratch_purgeable_make_young(const struct scratch_purgeable *run) {
    for (size_t page = 0; page < run->pages; page++)
        scratch_word_load(page_at(run, page));
}

void scratch_purgeable_populate(const struct scratch_purgeable *run) {
    /* Fails before Linux 5.14, and where memory is short. */
    madvise(run->address, run->pages * scratch_page_size(), MADV_POPULATE_WRITE);
}

void scratch_purgeable_put_canaries(const struct scratch_purgeable *run) {
    for (size_t page = 0; page < run->pages; page++) {
        run->displaced[page] = scratch_word_load(page_at(run, page));
        scratch_word_store(page_at(run, page), canary_of(run, page));
    }
}

int scratch_purgeable_release(const struct scratch_purgeable *run, bool was_used) {
    scratch_purgeable_put_canaries(run);
    int error = scratch_free_lazily(run->address, run->pages * scratch_page_size());
    if (!error && was_used)
        scratch_purgeable_make_young(run);
    return error;
}

bool scratch_purgeable_pin(const struct scratch_purgeable *run, size_t first, size_t end) {
    for (size_t page = first; page < end; page++) {
        /* A store into a dropped page, if only attempted, would make one; a load doesn't. */
        uint64_t canary = canary_of(run, page);
        if (scratch_word_load(page_at(run, page)) != canary)
            return false;
        /* Only this decides: it has the page dirty in the same instant in which it finds the canary. */
        if (scratch_word_compare_exchange(page_at(run, page), canary, run->displaced[page]) != canary)
            return false;
    }
    return true;
}

bool scratch_purgeable_is_whole(const struct scratch_purgeable *run) {
    unsigned char resident[PAGES_AT_ONCE];
    for (size_t page = 0; page < run->pages; page += PAGES_AT_ONCE) {
        size_t count = run->pages - page < PAGES_AT_ONCE ? run->pages - page : PAGES_AT_ONCE;
        if (mincore(page_at(run, page), count * scratch_page_size(), resident))
            return false;
        for (size_t index = 0; index < count; index++) {
            if (!(resident[index] & 1))
                return false;
        }
    }
    return true;
}
