/* SPDX-License-Identifier: Apache-2.0 */
#include "probe.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include "base.h"
#include "raw.h"
#include "uapi.h"
#include "userfault.h"

void scratch_userfault_probe(struct scratch_userfault_status *ret) {
    struct scratch_userfault userfault = {.descriptor = -1};
    memset(ret, 0, sizeof *ret);
    ret->error = scratch_userfault_open(&userfault);
    ret->system_calls = userfault.system_calls;
    ret->write_protect = userfault.write_protect;
    ret->poison = userfault.poison;
    if (!ret->error)
        raw_close(userfault.descriptor);
    char from = 'x', to = 0;
    struct iovec local = {&to, 1}, remote = {&from, 1};
    if (syscall(SYS_process_vm_readv, getpid(), &local, 1, &remote, 1, 0) != 1)
        ret->remote_read_error = errno;
    if (syscall(SYS_close_range, UINT_MAX, UINT_MAX, 0)) /* a descriptor that nobody can have */
        ret->descriptor_table_error = errno;
}

static int try_to_map(int flags, int fd) {
    void *mapped = mmap(NULL, scratch_page_size(), PROT_READ | PROT_WRITE, flags, fd, 0);
    if (mapped == MAP_FAILED)
        return errno;
    munmap(mapped, scratch_page_size());
    return 0;
}

/*
 * The number contains the bit of MAP_PRIVATE. Whoever imitates Linux and looks at that bit alone would
 * take it for a MAP_PRIVATE, and would also map it without a file, which MAP_SCRATCH refuses.
 */
int scratch_kernel_probe(int fd) {
    int error = try_to_map(MAP_SCRATCH, fd);
    if (!error && !try_to_map(MAP_SCRATCH | MAP_ANONYMOUS, -1))
        error = EINVAL;
    return error;
}
