/* SPDX-License-Identifier: Apache-2.0 */
#include "stage.h"

#include <stdio.h>
#include <string.h>
#include <sys/uio.h>

#include "raw.h"

/* From so many bytes on the source is not copied before it is decoded. */
enum { DIRECT_BYTES = 32 * 1024 };

static struct {
    unsigned char made[SCRATCH_STAGING_BYTES] __attribute__((aligned(4096)));    /* pages */
    unsigned char encoded[SCRATCH_STAGING_BYTES] __attribute__((aligned(4096))); /* what of */
    pid_t own_process; /* asked for once: it is a system call */
    bool is_left_out;  /* of core files */
} stage;

void scratch_stage_restart(void) { stage.own_process = getpid(); }

/* What is decoded may be secret, and can be made again: it is no part of a core file. */
static void leave_out_of_core_files(void) {
    if (stage.is_left_out)
        return;
    stage.is_left_out = true;
    madvise(stage.made, sizeof stage.made, MADV_DONTDUMP);
    madvise(stage.encoded, sizeof stage.encoded, MADV_DONTDUMP);
}

static size_t unit_bytes(const struct scratch_range *range) {
    return range->decoding.unit_pages * scratch_page_size();
}

/* How many units are decoded at once: what fits into both buffers. */
static size_t batch_units(const struct scratch_range *range) {
    size_t units = SCRATCH_STAGING_BYTES / unit_bytes(range);
    return scratch_least(units, SCRATCH_STAGING_BYTES / range->decoding.unit_source_length);
}

/* Huge pages, if they hold whole units. */
static void set_huge(const struct scratch_range *range, struct scratch_stream_limits *limits) {
    size_t skew = (uintptr_t)range->address % SCRATCH_HUGE_BYTES / scratch_page_size();
    size_t pages = SCRATCH_HUGE_BYTES / scratch_page_size();
    if (pages % limits->unit || (pages - skew) % limits->unit)
        return;
    limits->huge = pages;
    limits->huge_skew = skew;
}

struct scratch_stream_limits scratch_stage_limits(const struct scratch_range *range) {
    struct scratch_stream_limits limits = {
        .end = scratch_range_pages(range),
        .unit = 1,
        .block = scratch_settings.fault_around_pages,
        .batch = SCRATCH_STAGING_BYTES / scratch_page_size(),
        .window = SCRATCH_STAGING_BYTES / scratch_page_size(),
        .adapts = true,
    };
    if (range->is_decoded) {
        const struct scratch_decoding *decoding = &range->decoding;
        limits.unit = decoding->unit_pages;
        limits.block = decoding->block_pages;
        limits.batch = batch_units(range) * decoding->unit_pages;
        limits.window = scratch_settings.window_pages;
        limits.adapts = !decoding->block_is_fixed;
        limits.windows_ahead = range->helper.address ? SCRATCH_HELPER_QUESTIONS : 1;
        if (range->takes_huge_pages && !range->helper.address)
            set_huge(range, &limits);
    }
    return limits;
}

/*
 * The source's read-ahead is switched off (MADV_RANDOM), because read-around makes a random
 * page-in read far more than it needs. So ask for what is needed: these pages, and in a sequence
 * a window ahead of them.
 */
void scratch_stage_read_ahead(struct scratch_range *range, const struct scratch_plan *plan) {
    size_t page_size = scratch_page_size();
    size_t from, to;
    scratch_source_of(range, plan->first, plan->end, &from, &to);
    if (plan->in_sequence) {
        size_t window = scratch_settings.readahead_bytes;
        size_t on_its_way_from, on_its_way_to;
        scratch_source_of(range, plan->stream->next, plan->stream->goal, &on_its_way_from, &on_its_way_to);
        if (on_its_way_to > to)
            to = on_its_way_to;
        if (to + window / 2 <= plan->stream->read_to)
            return; /* still well inside what was asked for */
        to += window;
        if (plan->stream->read_to > from && plan->stream->read_to < to)
            from = plan->stream->read_to;
    }
    plan->stream->read_to = to;
    size_t start = (range->source_skip + from) & ~(page_size - 1);
    size_t stop = scratch_least(range->source_skip + to, range->source_length);
    bool is_worth_a_call = stop > start + 2 * page_size; /* else reading them asks for them */
    if (start < stop && is_worth_a_call)
        madvise((void *)(range->source + start), stop - start, MADV_WILLNEED);
}

/* Copies bytes of the source; fewer than asked for if the file has shrunk, where memcpy would be killed. */
static size_t read_source(const struct scratch_range *range, size_t offset, size_t length, void *to) {
    struct iovec local = {to, length};
    struct iovec remote = {(void *)(range->source + range->source_skip + offset), length};
    ssize_t got = syscall(SYS_process_vm_readv, stage.own_process, &local, 1, &remote, 1, 0);
    return got > 0 ? (size_t)got : 0;
}

/*
 * Bytes of the source for a decoding function, and how many there are. Much is decoded where it lies,
 * if its last byte can be read just now: to copy it first would cost as much as to decode it. (If the
 * file shrinks in that very moment, or its device fails, the process ends by SIGBUS, as it would a
 * moment later, but without our message.)
 */
static const void *encoded_bytes(const struct scratch_range *range, size_t offset, size_t length,
                                 size_t *ret_length) {
    const unsigned char *bytes = range->source + range->source_skip + offset;
    unsigned char last;
    bool is_aligned = (uintptr_t)bytes % 16 == 0;
    if (length >= DIRECT_BYTES && is_aligned && read_source(range, offset + length - 1, 1, &last)) {
        *ret_length = length;
        return bytes;
    }
    *ret_length = read_source(range, offset, length, stage.encoded);
    return stage.encoded;
}

static size_t stage_words(struct scratch_range *range, size_t first, size_t pages) {
    size_t page_size = scratch_page_size();
    size_t staged = read_source(range, first * page_size, pages * page_size, stage.made) / page_size;
    uint64_t started = scratch_now_ns();
    scratch_word_table_apply(&range->fixup, stage.made, first * page_size, staged * page_size);
    scratch_count_fixup_time(range, started);
    return staged;
}

size_t scratch_stage_decoded(struct scratch_range *range, size_t first, size_t pages,
                             unsigned char *to_bytes, char reason[SCRATCH_REASON_LENGTH]) {
    const struct scratch_decoding *decoding = &range->decoding;
    uint64_t first_unit = first / decoding->unit_pages;
    uint64_t units = (pages + decoding->unit_pages - 1) / decoding->unit_pages;
    size_t from, to;
    scratch_source_of(range, first, first + pages, &from, &to);
    size_t got;
    const void *bytes = encoded_bytes(range, from, to - from, &got);
    if (got < to - from) {
        snprintf(reason, SCRATCH_REASON_LENGTH,
                 "the file no longer has these bytes (it shrank, or its device failed)");
        units = got / decoding->unit_source_length;
        pages = units * decoding->unit_pages;
    }
    uint64_t first_item = first_unit * decoding->unit_items;
    uint64_t items = units * decoding->unit_items;
    if (items > decoding->items - first_item)
        items = decoding->items - first_item;
    if (!items)
        return 0;
    uint64_t started = scratch_now_ns();
    int32_t error = decoding->decode(to_bytes, bytes, (int64_t)items, (int64_t)first_item,
                                     (void *)decoding->user_data);
    scratch_count_fixup_time(range, started);
    if (error) {
        snprintf(reason, SCRATCH_REASON_LENGTH, "its fixup returned %d", (int)error);
        return 0;
    }
    /* Behind the last item is nobody's, but it can be seen; the same each time. */
    size_t used = items * (unit_bytes(range) / decoding->unit_items);
    memset(to_bytes + used, 0, units * unit_bytes(range) - used);
    return pages;
}

size_t scratch_stage(struct scratch_range *range, size_t first, size_t pages,
                     const unsigned char **ret_bytes, char reason[SCRATCH_REASON_LENGTH]) {
    leave_out_of_core_files();
    *ret_bytes = stage.made;
    if (range->is_decoded)
        return scratch_stage_decoded(range, first, pages, stage.made, reason);
    if (range->has_fixup)
        return stage_words(range, first, pages);
    *ret_bytes = range->source + first * scratch_page_size();
    return pages;
}
