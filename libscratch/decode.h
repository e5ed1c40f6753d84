/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ranges whose pages are decoded: the file holds one thing, memory shows another that is made out of
 * it. The least that is made at a time is a *unit*: whole pages that hold whole items.
 */
#ifndef SCRATCH_DECODE_H
#define SCRATCH_DECODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Makes `items` items of output, of which the first is item `first` of the whole, from the source bytes
 * that belong to them. Both buffers are aligned to 16 bytes and don't overlap. It must give the same
 * output for the same source each time, and must need no interpreter and touch no scratch memory: it
 * runs on the pager's thread, while the thread that wants the page waits. Not 0: it can't be made.
 */
typedef int32_t (*scratch_decode_function)(void *output, const void *source, int64_t items,
                                           int64_t first, void *user_data);

/* The most that is decoded at once, of output and of source, and so the largest unit. */
#define SCRATCH_STAGING_BYTES (256 * 1024)

/* Of the key that a helper asks for. */
enum { SCRATCH_HELPER_KEY_BYTES = 16 };

struct scratch_decoding {
    scratch_decode_function decode; /* NULL: `helper` does it */
    const void *user_data;          /* copied */
    size_t user_data_length;
    const char *helper; /* an abstract socket's name, without its leading 0; copied */
    const unsigned char *helper_key; /* what it asks of who connects (helper.h); copied */
    int helper_owner;                /* the socket of who has started it; not kept */
    size_t unit_pages;
    uint64_t unit_items;
    uint64_t unit_source_length; /* bytes */
    uint64_t items;              /* of the whole range */
    uint64_t source_length;      /* bytes of the file, from `source_offset` */
    size_t block_pages;          /* made at a page fault; whole units */
    bool block_is_fixed;         /* it doesn't adapt to how the memory is read */
    bool huge_pages;             /* the memory may be mapped writable, and take huge pages */
};

#endif
