/* SPDX-License-Identifier: Apache-2.0 */
/* Pages that a helper makes (helper.h): asking for them, and what becomes of its answers. */
#ifndef SCRATCH_HELPER_PAGES_H
#define SCRATCH_HELPER_PAGES_H

#include "range.h"
#include "userfault.h"

/* What can't be asked of a helper fails like what can't be decoded. */
void scratch_helper_pages_ask(const struct scratch_userfault *userfault, struct scratch_range *range,
                              size_t first, size_t end, size_t awaited);
/* Takes what helpers have answered. */
void scratch_helper_pages_answers(const struct scratch_userfault *userfault);
/* On a new pager, which has no connections to helpers: who waits for one asks again. */
void scratch_helper_pages_restart(const struct scratch_userfault *userfault);

#endif
