/* SPDX-License-Identifier: Apache-2.0 */
/* Asserts the table of page states (states.c) in builds with -Dcheck_states=true; nothing in others. */
#ifndef SCRATCH_CHECK_H
#define SCRATCH_CHECK_H

#include "range.h"

#ifdef SCRATCH_CHECK_STATES
/* Something happened to pages [first, first + pages); under the range's lock. */
void scratch_check_event(struct scratch_range *range, size_t first, size_t pages,
                         enum scratch_page_event event);
/* Pages [first, end) were pinned and touched. */
void scratch_check_pinned(struct scratch_range *range, size_t first, size_t end);
#else
static inline void scratch_check_event(struct scratch_range *range, size_t first, size_t pages,
                                       enum scratch_page_event event) {
    (void)range, (void)first, (void)pages, (void)event;
}
inline void scratch_check_pinned(struct scratch_range *range, size_t first, size_t end) {
    (void)range, (void)first, (void)end;
}
#endif

#endif
