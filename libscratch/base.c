/* SPDX-License-Identifier: Apache-2.0 */
#include "base.h"

#include <unistd.h>

struct scratch_settings scratch_settings = {
    .fault_around_pages = 16,
    .window_pages = 512,
    .rearm_window_ns = 10 * 1000 * 1000,
    .poll_after_fault_ns = 50 * 1000,
    .readahead_bytes = 1 << 20,
    .drop_percent_low = 50,
    .drop_percent_medium = 100,
    .drop_percent_critical = 100,
};

size_t scratch_page_size(void) {
    static size_t page_size;
    if (!page_size)
        page_size = (size_t)sysconf(_SC_PAGESIZE);
    return page_size;
}
