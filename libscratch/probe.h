/* SPDX-License-Identifier: Apache-2.0 */
/* What this process gets of its kernel: tried, not concluded from a version. */
#ifndef SCRATCH_PROBE_H
#define SCRATCH_PROBE_H

#include <stdbool.h>

/* What userfaultfd this process gets. */
struct scratch_userfault_status {
    int error;            /* 0, or why there is none */
    bool system_calls;    /* faults of system calls are served too */
    bool write_protect;   /* stores can be tracked */
    bool poison;          /* a page that can't be made gives SIGBUS to whoever touches it */
    int remote_read_error; /* process_vm_readv on ourselves, needed by page-in fixups */
    int descriptor_table_error; /* close_range, needed for the pager's own descriptor table */
};

void scratch_userfault_probe(struct scratch_userfault_status *ret);
/* Is MAP_SCRATCH real here? 0 if it is, else the errno of a real mmap. */
int scratch_kernel_probe(int fd);

#endif
