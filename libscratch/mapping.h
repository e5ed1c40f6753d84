/* SPDX-License-Identifier: Apache-2.0 */
/* What an application does with its ranges. */
#ifndef SCRATCH_MAPPING_H
#define SCRATCH_MAPPING_H

#include "description.h"
#include "pagemap.h"
#include "pressure.h"
#include "states.h"

struct scratch_range;

struct scratch_counts {
    uint64_t filled;   /* pages made by the pager */
    uint64_t rebuilt;  /* of those, pages that had been made before */
    uint64_t dropped;  /* pages dropped by `scratch_range_drop` or by the drop policy */
    uint64_t pinned;   /* pages pinned now */
    uint64_t fixup_ns; /* time spent in page-in fixups */
    uint64_t locked_bytes; /* `dontneed`: locked on fault */
};

int scratch_range_create(enum scratch_engine engine, const struct scratch_description *description,
                         struct scratch_range **ret);
/*
 * Closing: begin, unmap the memory, forget; or, if it can't be unmapped after all, abort. From begin
 * on nobody calls madvise on the range.
 */
void scratch_range_close_begin(struct scratch_range *range);
/* Whether somebody has sealed the memory (mseal): it can't be unmapped, and its range must not be forgotten. */
bool scratch_range_is_sealed(struct scratch_range *range);
void scratch_range_close_abort(struct scratch_range *range);
void scratch_range_forget(struct scratch_range *range);

/* Offsets and lengths are multiples of the page size, inside the range. */
int scratch_range_drop(struct scratch_range *range, size_t offset, size_t length, uint64_t *ret_pages);
/* Drops all unpinned pages of all ranges, and unmaps the files' pages; the bytes of memory that went. */
uint64_t scratch_release_all(void);
int scratch_range_reclaim(struct scratch_range *range, size_t offset, size_t length);
int scratch_range_rearm(struct scratch_range *range, size_t offset, size_t length);
/*
 * Which of some pages, in ascending order, are in memory: the lowest bit of a byte each, as mincore(2).
 * EINVAL if the range hasn't them.
 */
int scratch_range_residence(const struct scratch_range *range, const uint64_t *pages, size_t count,
                            unsigned char *ret);
/*
 * Makes some pages that are about to be read, in ascending order: for less than the faults would cost.
 * Only of decoded ranges without a helper; EINVAL for others, and for pages that the range hasn't.
 */
int scratch_range_fetch(struct scratch_range *range, const uint64_t *pages, size_t count);
void scratch_range_counts(struct scratch_range *range, struct scratch_counts *ret);
/* What is there of it now; EBADF: /proc can't be had. */
int scratch_range_page_counts(struct scratch_range *range, struct scratch_page_counts *ret);

/* What wakes the drop policy of `dontneed`: see `scratch_pressure_choose`. Starts to watch it. */
int scratch_pressure_watch(enum scratch_pressure_kind kind, const char *path, const char *trigger);
/* Runs the drop policy once, as if pressure of level 0 (low) to 2 (critical) had been announced. */
void scratch_pressure_announce(int level);

#endif
