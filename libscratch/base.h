/* SPDX-License-Identifier: Apache-2.0 */
/* What every part needs: how large a page is, and the sizes, windows and shares that a user may set. */
#ifndef SCRATCH_BASE_H
#define SCRATCH_BASE_H

#include <stddef.h>
#include <stdint.h>

struct scratch_settings {
    uint32_t fault_around_pages;   /* pages made at one page fault (aligned, a power of two) */
    uint32_t window_pages;         /* of decoded ranges: on the way for one sequential reader, at most */
    uint64_t rearm_window_ns;      /* at the latest so long after a store its page is re-armed */
    uint64_t poll_after_fault_ns;  /* how long the pager looks for the next fault before it sleeps */
    uint64_t readahead_bytes;      /* of the source, ahead of a sequential reader */
    uint32_t drop_percent_low;     /* of the dirty pages of `dontneed`, by level of pressure */
    uint32_t drop_percent_medium;
    uint32_t drop_percent_critical;
};

extern struct scratch_settings scratch_settings;

static inline void scratch_configure(const struct scratch_settings *settings) {
    scratch_settings = *settings;
}

size_t scratch_page_size(void);

/* Huge pages on x86-64, and on aarch64 with small base pages: where they are of another size none are used. */
enum { SCRATCH_HUGE_BYTES = 2 << 20 };

static inline size_t scratch_least(size_t one, size_t other) { return one < other ? one : other; }
static inline size_t scratch_most(size_t one, size_t other) { return one > other ? one : other; }

#endif
