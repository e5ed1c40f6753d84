/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libscratch: memory that the kernel may throw away, below any language.
 *
 * It holds what must run without an interpreter: the page-fault path, the drop policy that memory
 * pressure wakes, and the ownership of address ranges. It decides nothing that a user could want to
 * change: sizes, windows and shares come in through `scratch_settings`.
 *
 * Functions return 0 or a positive errno value; results come back through parameters named `ret`.
 */
#ifndef SCRATCH_H
#define SCRATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "decode.h"
#include "pagemap.h"
#include "states.h"
#include "wordtable.h"

struct scratch_range;

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

struct scratch_description {
    void *address; /* page-aligned; a private file mapping that the range takes over */
    size_t length; /* bytes; the last page may be incomplete */
    int protection;
    int source_fd;      /* the file, for `lazyfree` and `kernel`; not kept */
    off_t source_offset; /* where in it the range begins */
    const char *name;   /* for messages; copied */
    const struct scratch_word_table *fixup; /* only `lazyfree`; copied; may be NULL */
    const struct scratch_decoding *decoding; /* in place of `fixup`; then `source_offset` is any byte */
    size_t lock_length; /* only `dontneed`: this much from the start is locked on fault */
};

struct scratch_counts {
    uint64_t filled;   /* pages made by the pager */
    uint64_t rebuilt;  /* of those, pages that had been made before */
    uint64_t dropped;  /* pages dropped by `scratch_range_drop` or by the drop policy */
    uint64_t pinned;   /* pages pinned now */
    uint64_t fixup_ns; /* time spent in page-in fixups */
    uint64_t locked_bytes; /* `dontneed`: locked on fault */
};

/* What userfaultfd this process gets. */
struct scratch_userfault_status {
    int error;            /* 0, or why there is none */
    bool system_calls;    /* faults of system calls are served too */
    bool write_protect;   /* stores can be tracked */
    bool poison;          /* a page that can't be made gives SIGBUS to whoever touches it */
    int remote_read_error; /* process_vm_readv on ourselves, needed by page-in fixups */
    int descriptor_table_error; /* close_range, needed for the pager's own descriptor table */
};

enum scratch_pressure_kind {
    SCRATCH_PRESSURE_CGROUP1,
    SCRATCH_PRESSURE_CGROUP2,
    SCRATCH_PRESSURE_STALL,
    SCRATCH_PRESSURE_TIMER, /* for trials: announced every so many milliseconds (`path`, a number) */
};

/*
 * 10 ms of stalls in half a second; or, because that takes CAP_SYS_RESOURCE, 20 ms in 2 s, the shortest
 * window that an ordinary user may ask for (Documentation/accounting/psi.rst, "Monitoring for pressure
 * thresholds"). The first that the kernel grants is taken.
 */
#define SCRATCH_STALL_TRIGGERS "some 10000 500000\nsome 20000 2000000"

void scratch_configure(const struct scratch_settings *settings);
void scratch_userfault_probe(struct scratch_userfault_status *ret);
/* Is MAP_SCRATCH real here? 0 if it is, else the errno of a real mmap. */
int scratch_kernel_probe(int fd);

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
int scratch_range_pin(struct scratch_range *range, size_t offset, size_t length,
                      uint64_t *ret_generation);
int scratch_range_unpin(struct scratch_range *range, size_t offset, size_t length,
                        uint64_t generation);
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

/*
 * What wakes the drop policy of `dontneed`. `path` is a cgroup's directory or a PSI file. `trigger` is
 * for PSI: one a line, of which the first is taken that this process may have. Of a cgroup v2 either
 * of memory.pressure (in its place the machine's) and memory.events is enough.
 */
int scratch_pressure_watch(enum scratch_pressure_kind kind, const char *path, const char *trigger);
/* How often pressure was announced, and pages that the drop policy has dropped in all. */
void scratch_pressure_counts(uint64_t *ret_events, uint64_t *ret_pages);
/* Runs the drop policy once, as if pressure of level 0 (low) to 2 (critical) had been announced. */
void scratch_pressure_announce(int level);

/* For who has no range but something on the board (board.h): installs the fork handlers, if they aren't. */
void scratch_fork_prepare(void);
/*
 * Around a fork by a caller that counts threads right after it: the pager is then restarted in the
 * parent only by `scratch_fork_finish`.
 */
void scratch_fork_expect(void);
void scratch_fork_finish(void);
/* The pager's thread id, 0 if none runs. */
pid_t scratch_pager_thread(void);

#endif
