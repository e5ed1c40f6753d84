/* SPDX-License-Identifier: Apache-2.0 */
#include "free_lazily.h"

#include <stdbool.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base.h"
#include "uapi.h"

static struct {
    void *drain_page;
    bool is_open; /* something was freed since the last drain */
} batch;

bool scratch_free_all_lazily(const struct iovec *places, size_t count) {
    static bool is_refused;
    ssize_t wanted = 0;
    for (size_t index = 0; index < count; index++)
        wanted += (ssize_t)places[index].iov_len;
    if (is_refused)
        return false;
    /* Of this process whatever its descriptors are: there is no number that may be another's by now. */
    ssize_t done = syscall(SYS_process_madvise, PIDFD_SELF_PROCESS, places, count, MADV_FREE, 0);
    is_refused = done < 0 && (errno == EBADF || errno == ENOSYS || errno == EPERM);
    return done == wanted;
}

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
