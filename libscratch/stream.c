/* SPDX-License-Identifier: Apache-2.0 */
#include "stream.h"

#include "base.h"

static size_t round_down(size_t page, size_t unit) { return page - page % unit; }

/* Whole units, at least one. */
static size_t shrunk_block(const struct scratch_streams *streams,
                           const struct scratch_stream_limits *limits) {
    return scratch_most(round_down(limits->block >> streams->shrink, limits->unit), limits->unit);
}

static struct scratch_stream *least_recently_used(struct scratch_streams *streams) {
    struct scratch_stream *oldest = &streams->streams[0];
    for (size_t index = 1; index < SCRATCH_STREAM_COUNT; index++) {
        if (streams->streams[index].last_used < oldest->last_used)
            oldest = &streams->streams[index];
    }
    return oldest;
}

/* The reader that is expected at `page`, or a little later. */
static struct scratch_stream *find_expected(struct scratch_streams *streams, size_t page,
                                            size_t block) {
    for (size_t index = 0; index < SCRATCH_STREAM_COUNT; index++) {
        struct scratch_stream *stream = &streams->streams[index];
        if (stream->window && page >= stream->next && page < scratch_most(stream->next + block, stream->goal))
            return stream;
    }
    return NULL;
}

/* The reader for whom `page` was made ahead. */
static struct scratch_stream *find_ahead(struct scratch_streams *streams,
                                         const struct scratch_stream_limits *limits, size_t page) {
    for (size_t index = 0; index < SCRATCH_STREAM_COUNT; index++) {
        struct scratch_stream *stream = &streams->streams[index];
        if (stream->window && page < stream->next &&
            page + limits->windows_ahead * stream->window >= stream->next)
            return stream;
    }
    return NULL;
}

static void widen(struct scratch_stream *stream, const struct scratch_stream_limits *limits) {
    if (limits->adapts)
        stream->window = scratch_most(scratch_least(2 * stream->window, limits->window), stream->window);
}

/* Puts one more window on its way, if the last one is made. */
static void set_goal(struct scratch_stream *stream, const struct scratch_stream_limits *limits) {
    if (!limits->windows_ahead || stream->next < stream->goal)
        return;
    size_t goal = stream->next + limits->windows_ahead * stream->window;
    if (limits->huge && stream->window >= limits->huge) /* it ends where a huge page does */
        goal -= (goal + limits->huge_skew) % limits->huge;
    stream->goal = scratch_least(goal, limits->end);
}

/* What is made at once from `next` on: a huge page, or a batch that ends where one begins. */
static size_t batch_from_next(const struct scratch_stream *stream,
                              const struct scratch_stream_limits *limits) {
    size_t batch = scratch_least(stream->window, limits->batch);
    if (!limits->huge)
        return batch;
    size_t inside = (stream->next + limits->huge_skew) % limits->huge;
    bool is_whole = !inside && stream->window >= limits->huge &&
                    stream->next + limits->huge <= limits->end;
    return is_whole ? limits->huge : scratch_least(batch, limits->huge - inside);
}

static struct scratch_plan plan_random(struct scratch_streams *streams,
                                       const struct scratch_stream_limits *limits, size_t page,
                                       bool made_before) {
    if (limits->adapts && made_before && shrunk_block(streams, limits) > limits->unit)
        streams->shrink++;
    else if (!made_before)
        streams->shrink = 0;
    size_t block = shrunk_block(streams, limits);
    size_t first = round_down(page, block);
    size_t end = scratch_least(first + block, limits->end);
    struct scratch_stream *stream = least_recently_used(streams);
    *stream = (struct scratch_stream){.next = end, .window = block};
    return (struct scratch_plan){first, end, stream, false};
}

/* The reader has come to the end of what it has: it waits, so make as much as one batch takes. */
static struct scratch_plan plan_sequence(struct scratch_stream *stream,
                                         const struct scratch_stream_limits *limits, size_t page) {
    widen(stream, limits);
    size_t batch = batch_from_next(stream, limits);
    size_t first = page < stream->next + batch ? stream->next : page;
    size_t end = scratch_least(first + batch, limits->end);
    stream->next = end;
    set_goal(stream, limits);
    return (struct scratch_plan){first, end, stream, true};
}

struct scratch_plan scratch_stream_plan(struct scratch_streams *streams,
                                        const struct scratch_stream_limits *limits, size_t page,
                                        bool made_before) {
    page = round_down(page, limits->unit);
    struct scratch_stream *stream = find_expected(streams, page, shrunk_block(streams, limits));
    struct scratch_plan plan;
    if (stream) {
        streams->shrink = 0;
        plan = plan_sequence(stream, limits, page);
    } else {
        plan = plan_random(streams, limits, page, made_before);
    }
    plan.stream->last_used = ++streams->clock;
    return plan;
}

bool scratch_stream_is_ahead(struct scratch_streams *streams,
                             const struct scratch_stream_limits *limits, size_t page) {
    return find_ahead(streams, limits, page);
}

bool scratch_stream_arrive(struct scratch_streams *streams,
                           const struct scratch_stream_limits *limits, size_t page,
                           struct scratch_plan *ret) {
    struct scratch_stream *stream = find_ahead(streams, limits, page);
    if (!stream)
        return false;
    if (stream->next >= stream->goal)
        widen(stream, limits);
    set_goal(stream, limits);
    stream->last_used = ++streams->clock;
    *ret = (struct scratch_plan){stream->next, stream->next, stream, true};
    return true;
}

bool scratch_stream_go_ahead(struct scratch_stream *stream,
                             const struct scratch_stream_limits *limits, size_t *ret_first,
                             size_t *ret_end) {
    if (stream->next >= stream->goal)
        return false;
    *ret_first = stream->next;
    *ret_end = scratch_least(stream->next + batch_from_next(stream, limits), stream->goal);
    stream->next = *ret_end;
    return true;
}

void scratch_stream_unit_around(const struct scratch_stream_limits *limits, size_t page,
                                size_t *ret_first, size_t *ret_end) {
    *ret_first = round_down(page, limits->unit);
    *ret_end = scratch_least(*ret_first + limits->unit, limits->end);
}
