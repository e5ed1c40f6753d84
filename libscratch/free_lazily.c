/* SPDX-License-Identifier: Apache-2.0 */
#include "free_lazily.h"

#include <stdbool.h>

#include "base.h"

static struct {
    void *drain_page;
    bool is_open; /* something was freed since the last drain */
} batch;

void scratch_free_by_batch(void *address, size_t length) {
    batch.is_open = true;
    scratch_free_lazily(address, length);
}

void scratch_drain_frees(void) {
    if (!batch.is_open)
        return;
    if (!batch.drain_page)
        batch.drain_page = mmap(NULL, scratch_page_size(), PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    scratch_free_lazily(batch.drain_page, scratch_page_size());
    batch.is_open = false;
}
