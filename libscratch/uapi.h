/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Constants of the Linux user-space interface that are newer than the headers of Linux 5.10, so that
 * libscratch builds on an old distribution and finds out at run time what the kernel can do. Each
 * names the commit that added it.
 */
#ifndef SCRATCH_UAPI_H
#define SCRATCH_UAPI_H

#include <linux/fs.h>
#include <linux/ioctl.h>
#include <linux/types.h>
#include <linux/userfaultfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>

/* 37cd0575b849 ("userfaultfd: add UFFD_USER_MODE_ONLY", in v5.11) */
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

/* 4ca9b3859dac ("mm/madvise: introduce MADV_POPULATE_(READ|WRITE)", in v5.14) */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* 9457056ac426 ("mm: madvise: MADV_DONTNEED_LOCKED", in v5.18) */
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif

/* 2d5de004e009 ("userfaultfd: add /dev/userfaultfd for fine grained access control", in v6.1) */
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

/* fc71884a5f59 ("mm: userfaultfd: add new UFFDIO_POISON ioctl", in v6.6) */
#ifndef UFFDIO_POISON
struct uffdio_poison {
    struct uffdio_range range;
    __u64 mode;
    __s64 updated;
};
#define UFFDIO_POISON _IOWR(UFFDIO, 0x08, struct uffdio_poison)
#endif

/* adef440691ba ("userfaultfd: UFFDIO_MOVE uABI", in v6.8) */
#ifndef UFFDIO_MOVE
struct uffdio_move {
    __u64 dst;
    __u64 src;
    __u64 len;
    __u64 mode;
    __s64 move;
};
#define UFFDIO_MOVE _IOWR(UFFDIO, 0x05, struct uffdio_move)
#endif
#ifndef UFFDIO_MOVE_MODE_DONTWAKE
#define UFFDIO_MOVE_MODE_DONTWAKE ((__u64)1 << 0)
#endif

/* 52526ca7fdb9 ("fs/proc/task_mmu: implement IOCTL to get and optionally clear info about PTEs", in v6.7) */
#ifndef PAGEMAP_SCAN
struct pm_scan_arg {
    __u64 size;
    __u64 flags;
    __u64 start;
    __u64 end;
    __u64 walk_end;
    __u64 vec;
    __u64 vec_len;
    __u64 max_pages;
    __u64 category_inverted;
    __u64 category_mask;
    __u64 category_anyof_mask;
    __u64 return_mask;
};
struct page_region {
    __u64 start;
    __u64 end;
    __u64 categories;
};
#define PAGEMAP_SCAN _IOWR('f', 16, struct pm_scan_arg)
#define PAGE_IS_FILE (1 << 2)
#define PAGE_IS_PRESENT (1 << 3)
#define PAGE_IS_SWAPPED (1 << 4)
#define PAGE_IS_HUGE (1 << 6)
#endif

/* "fs/proc: extend the PAGEMAP_SCAN ioctl to report guard regions", of 2025; EINVAL before */
#ifndef PAGE_IS_GUARD
#define PAGE_IS_GUARD (1 << 8)
#endif

/*
 * Not in any released kernel: the mapping type that the patches under kernel/ add. Its number is a
 * map type (it stands where MAP_PRIVATE stands), so that an unpatched kernel answers EINVAL.
 */
#ifndef MAP_SCRATCH
#define MAP_SCRATCH 0x0a
#endif

/* 9651fcedf7b9 ("mm: add MAP_DROPPABLE for designating always lazily freeable mappings", in v6.11) */
#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif

/* d7597f59d1d3 ("mm: add new api to enable ksm per process", in v6.4) */
#ifndef PR_GET_MEMORY_MERGE
#define PR_GET_MEMORY_MERGE 68
#endif

/* 105ff5339f49 ("mm/memfd: add MFD_NOEXEC_SEAL and MFD_EXEC", in v6.3) */
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

/* ecb8ac8b1f14 ("mm/madvise: introduce process_madvise() syscall", in v5.10) */
#ifndef SYS_process_madvise
#define SYS_process_madvise 440
#endif

/* f08d0c3a7111 ("pidfd: add PIDFD_SELF* sentinels to refer to own thread/process", in v6.14) */
#ifndef PIDFD_SELF_PROCESS
#define PIDFD_SELF_PROCESS (-10001)
#endif

/* The older ones that the C library's headers may still lack. */
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21 /* 1a4e58cce84e ("mm: introduce MADV_PAGEOUT", in v5.4) */
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010 /* ab3948f58ff8 ("mm/memfd: add an F_SEAL_FUTURE_WRITE seal to memfd", in v5.1) */
#endif
#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE (1U << 1) /* 278a5fbaed89 ("open: add close_range()", in v5.9) */
#endif

#endif
