/* SPDX-License-Identifier: Apache-2.0 */
/* Huge pages for whoever reads a decoded range in sequence: made apart, and moved in whole. */
#ifndef SCRATCH_HUGE_PAGES_H
#define SCRATCH_HUGE_PAGES_H

#include "range.h"
#include "userfault.h"

/* False if [first, end) isn't one, or nothing was made of it: then it is to be made of small pages. */
bool scratch_fill_huge(const struct scratch_userfault *userfault, struct scratch_range *range,
                       const struct scratch_stream_limits *limits, size_t first, size_t end);

#endif
