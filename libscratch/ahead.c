/* SPDX-License-Identifier: Apache-2.0 */
#include "ahead.h"

enum { AHEAD_CAPACITY = 32 };
struct reader {
    uintptr_t address; /* of the range */
    size_t stream;
};
static struct {
    struct reader entries[AHEAD_CAPACITY];
    size_t head;
    size_t count;
} ring;

void scratch_ahead_note(const struct scratch_range *range, const struct scratch_stream *stream) {
    size_t index = (size_t)(stream - range->streams.streams);
    if (stream->next >= stream->goal || ring.count == AHEAD_CAPACITY)
        return;
    for (size_t noted = 0; noted < ring.count; noted++) {
        const struct reader *known = &ring.entries[(ring.head + noted) % AHEAD_CAPACITY];
        if (known->address == (uintptr_t)range->address && known->stream == index)
            return;
    }
    ring.entries[(ring.head + ring.count++) % AHEAD_CAPACITY] =
        (struct reader){(uintptr_t)range->address, index};
}

void scratch_ahead_note_all(const struct scratch_range *range) {
    for (size_t index = 0; index < SCRATCH_STREAM_COUNT; index++)
        scratch_ahead_note(range, &range->streams.streams[index]);
}

bool scratch_ahead_take(uintptr_t *ret_address, size_t *ret_stream) {
    if (!ring.count)
        return false;
    *ret_address = ring.entries[ring.head].address;
    *ret_stream = ring.entries[ring.head].stream;
    ring.head = (ring.head + 1) % AHEAD_CAPACITY;
    ring.count--;
    return true;
}

void scratch_ahead_forget(void) { ring.count = 0; }
