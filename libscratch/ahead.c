/* SPDX-License-Identifier: Apache-2.0 */
#include "ahead.h"

/* A ring of ranges' addresses and streams. */
enum { AHEAD_CAPACITY = 32 };
struct ahead {
    uintptr_t address;
    size_t stream;
};
static struct ahead aheads[AHEAD_CAPACITY];
static size_t ahead_head;
static size_t ahead_count;

void scratch_ahead_note(const struct scratch_range *range, const struct scratch_stream *stream) {
    size_t index = (size_t)(stream - range->streams.streams);
    if (stream->next >= stream->goal || ahead_count == AHEAD_CAPACITY)
        return;
    for (size_t noted = 0; noted < ahead_count; noted++) {
        const struct ahead *ahead = &aheads[(ahead_head + noted) % AHEAD_CAPACITY];
        if (ahead->address == (uintptr_t)range->address && ahead->stream == index)
            return;
    }
    aheads[(ahead_head + ahead_count++) % AHEAD_CAPACITY] =
        (struct ahead){(uintptr_t)range->address, index};
}

void scratch_ahead_note_all(const struct scratch_range *range) {
    for (size_t index = 0; index < SCRATCH_STREAM_COUNT; index++)
        scratch_ahead_note(range, &range->streams.streams[index]);
}

bool scratch_ahead_take(uintptr_t *ret_address, size_t *ret_stream) {
    if (!ahead_count)
        return false;
    *ret_address = aheads[ahead_head].address;
    *ret_stream = aheads[ahead_head].stream;
    ahead_head = (ahead_head + 1) % AHEAD_CAPACITY;
    ahead_count--;
    return true;
}

void scratch_ahead_forget(void) { ahead_count = 0; }
