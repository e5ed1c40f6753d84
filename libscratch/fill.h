/* SPDX-License-Identifier: Apache-2.0 */
/* Putting pages where none are, or making it known that one can't be made. On the pager's thread. */
#ifndef SCRATCH_FILL_H
#define SCRATCH_FILL_H

#include "range.h"
#include "stage.h"
#include "userfault.h"

/*
 * Makes at most one batch; once the caller has drained it is droppable. An error is that of `awaited`,
 * the page somebody waits for, if there is one; it has no page then, and `reason` says why.
 */
int scratch_fill(const struct scratch_userfault *userfault, struct scratch_range *range, size_t first,
                 size_t end, size_t awaited, bool for_store, char reason[SCRATCH_REASON_LENGTH]);
/* Copies in what was made, as often as reclaim needs; an error of the awaited page. */
int scratch_fill_from(const struct scratch_userfault *userfault, struct scratch_range *range,
                      size_t first, size_t pages, const unsigned char *bytes, size_t awaited,
                      bool for_store);
/* For who has put pages there in another way. */
void scratch_fill_note(struct scratch_range *range, size_t first, size_t pages, bool for_store);
/* The kernel may drop what was put there, from the next drain on. */
void scratch_fill_free(struct scratch_range *range, size_t first, size_t end);

/* Nobody may ever see something else than what the file gives: the page is poisoned or closed. */
void scratch_fill_fail(const struct scratch_userfault *userfault, struct scratch_range *range,
                       size_t page, const char *reason);
/* In words, of what `scratch_fill_from` returns. */
const char *scratch_fill_reason(int error);

static inline void scratch_wake_pages(const struct scratch_userfault *userfault,
                                      const struct scratch_range *range, size_t first, size_t end) {
    size_t page_size = scratch_page_size();
    scratch_userfault_wake(userfault, (uintptr_t)range->address + first * page_size,
                           (end - first) * page_size);
}

#endif
