/* SPDX-License-Identifier: Apache-2.0 */
#include "free_lazily.h"

#include <stdbool.h>

#include "base.h"

static void *drain_page;
static bool has_batched_frees;

void scratch_free_by_batch(void *address, size_t length) {
    has_batched_frees = true;
    scratch_free_lazily(address, length);
}

void scratch_drain_frees(void) {
    if (!has_batched_frees)
        return;
    if (!drain_page)
        drain_page = mmap(NULL, scratch_page_size(), PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    scratch_free_lazily(drain_page, scratch_page_size());
    has_batched_frees = false;
}
