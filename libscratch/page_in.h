/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Page-in: how much is made with a missing page, and what is made ahead of a reader. On the pager's
 * thread.
 */
#ifndef SCRATCH_PAGE_IN_H
#define SCRATCH_PAGE_IN_H

#include "range.h"
#include "userfault.h"

/*
 * Makes `page` and what goes with it, under the range's lock; of that, [*ret_first, *ret_end) comes back.
 * `is_late`: other faults were served since this one was told of, maybe with the same page.
 */
void scratch_page_in(const struct scratch_userfault *userfault, struct scratch_range *range,
                     size_t page, bool for_store, bool is_late, size_t *ret_first, size_t *ret_end);
/* Makes some pages that are about to be read, without the price of a fault for each. */
void scratch_page_in_fetch(const struct scratch_userfault *userfault, struct scratch_range *range,
                           const uint64_t *pages, size_t count);
/* Whether the next fault is likely to come soon. */
bool scratch_page_in_expects_fault(void);
/* Makes one more batch of what lies ahead of some reader; false if there is nothing to make. */
bool scratch_page_in_ahead(const struct scratch_userfault *userfault);
/* Before anything else on a new pager. */
void scratch_page_in_restart(const struct scratch_userfault *userfault);
/* In the child of a fork. */
void scratch_page_in_forget(void);

#endif
