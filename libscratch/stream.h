/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How much to make at a page fault. A range remembers a few readers, each by where its next fault is
 * expected. One that comes there reads in sequence: its window doubles from fault to fault, because
 * the cost of a fault is then shared by more pages. Of decoded ranges one more window is made in the
 * background, on another processor, while the reader works on what it has; when it arrives there (a
 * fault on a page that is made by the time it is served) the next one is put on its way.
 *
 * A reader that comes anywhere else reads at random. It gets a block around its page; or, where pages
 * come back that had been made before (memory is short, and the neighbours that it doesn't want would
 * push out pages that it does), less with every such fault, down to one unit.
 */
#ifndef SCRATCH_STREAM_H
#define SCRATCH_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SCRATCH_STREAM_COUNT = 8 };
#define SCRATCH_NO_PAGE SIZE_MAX

/* One reader; all in pages. */
struct scratch_stream {
    size_t next;    /* the first page that isn't made: where a fault is expected */
    size_t goal;    /* up to here pages are on their way, from `next` on */
    size_t window;  /* 0: nobody */
    size_t read_to; /* the source of the pages up to here has been asked for */
    uint32_t last_used;
};

/* The range's part; all zero at first. */
struct scratch_streams {
    struct scratch_stream streams[SCRATCH_STREAM_COUNT];
    uint32_t clock;
    unsigned shrink; /* a random reader's block is halved so often */
};

/* What doesn't change in a range's life; all in pages. */
struct scratch_stream_limits {
    size_t end; /* of the range */
    size_t unit;
    size_t block;     /* made for a random reader at most, and at the start of a sequence; whole units */
    size_t batch;     /* made before anybody is woken, at most; whole units */
    size_t window;    /* made for one sequential reader at most */
    size_t huge;      /* 0, or: a huge page, which a wide window makes at once */
    size_t huge_skew; /* the range's first page lies so far behind a huge page's start */
    bool adapts;      /* else every fault gets `block` */
    size_t windows_ahead; /* made in the background; 0: none is */
};

struct scratch_plan {
    size_t first; /* to be made now: [first, end) */
    size_t end;
    struct scratch_stream *stream;
    bool in_sequence;
};

/* For a fault at `page`, whose page had been made before or not. */
struct scratch_plan scratch_stream_plan(struct scratch_streams *streams,
                                        const struct scratch_stream_limits *limits, size_t page,
                                        bool made_before);
/* Whether `page` was made ahead of a reader, who may be coming there. */
bool scratch_stream_is_ahead(struct scratch_streams *streams,
                             const struct scratch_stream_limits *limits, size_t page);
/* For a fault at a page that is there by now; false if no reader in sequence is known there. */
bool scratch_stream_arrive(struct scratch_streams *streams,
                           const struct scratch_stream_limits *limits, size_t page,
                           struct scratch_plan *ret);
/* The next part of what is on its way, at most a batch or a huge page: false if there is none. */
bool scratch_stream_go_ahead(struct scratch_stream *stream,
                             const struct scratch_stream_limits *limits, size_t *ret_first,
                             size_t *ret_end);
/* The unit that holds `page`, as far as it is in the range. */
void scratch_stream_unit_around(const struct scratch_stream_limits *limits, size_t page,
                                size_t *ret_first, size_t *ret_end);

#endif
