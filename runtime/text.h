/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The text of one library whose PLT entries are fixed by us, in one process.
 *
 * A fixup is one aligned 8-byte store into the text, so that a page may be dropped between any two
 * and a thread may run through the entry at any time. Everything that is remembered here besides can be lost
 * or found out again.
 */
#ifndef MAPSCRATCH_TEXT_H
#define MAPSCRATCH_TEXT_H

#include <stdbool.h>
#include <stdint.h>

#include "record.h"

struct text {
    struct text *next; /* in `texts_known`; never changes after it is published */
    uintptr_t base;
    uintptr_t link_map;
    const uint32_t *entries;
    uint32_t relocation_count;
    uintptr_t first_page;
    uintptr_t end_page;
    /*
     * Targets found before, by relocation; 0: unknown. It makes fixing a dropped page again cheap, and
     * may be dropped like it. The highest bit, which no address of a program has, says that the entry was
     * fixed before.
     */
    uintptr_t *targets;
    uint32_t *calls; /* by page: through unfixed entries whose targets are known */
    uintptr_t *slots; /* targets further than 2 GiB, within 2 GiB of the text; never dropped */
    uint32_t is_scratch;    /* the text is mapped MAP_SCRATCH: nobody need drop it */
    uint32_t is_unwritable; /* an attempt to make it writable failed: entries stay unfixed */
    /* Only for the drop policy (reclaim.c). */
    uint32_t is_closed;  /* the library is being unmapped */
    uint32_t adopted_in; /* the process that has a range of it */
};

/* All texts of this process, the latest first. */
extern struct text *texts_known;

/*
 * Made at the first call through an unfixed entry. NULL if it is just being made, or there is no memory for
 * it: then a call is bound and nothing is fixed.
 */
struct text *text_of(struct record *record);

/* The link map of the record's library. */
uintptr_t library_of(const struct record *record);

/* The target of an entry, if it was remembered; 0 if not. */
uintptr_t text_target(const struct text *text, uint32_t index);
void text_remember(struct text *text, uint32_t index, uintptr_t target);

/*
 * An unfixed entry whose target is known was called: fix it, and all those of its page whose targets
 * are known, if that is worth it by now. Best effort: an entry that stays unfixed is only slower.
 */
void text_called_again(struct text *text, uint32_t index);

#endif
