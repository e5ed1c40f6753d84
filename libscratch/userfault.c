/* SPDX-License-Identifier: Apache-2.0 */
#include "userfault.h"

#include <errno.h>

#include "base.h"
#include "raw.h"

static int open_with_features(int flags, uint64_t features, struct scratch_userfault *ret) {
    int descriptor = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | flags);
    if (descriptor < 0 && errno == EPERM && !flags) {
        /* The device grants by file permission what the system call grants by capability. */
        int device = raw_open("/dev/userfaultfd", O_RDWR);
        if (device < 0)
            return EPERM;
        descriptor = (int)syscall(SYS_ioctl, device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
        int error = errno;
        raw_close(device);
        errno = error;
    }
    if (descriptor < 0)
        return errno;
    struct uffdio_api api = {.api = UFFD_API, .features = features};
    if (raw_ioctl(descriptor, UFFDIO_API, &api)) {
        int error = errno;
        raw_close(descriptor);
        return error;
    }
    ret->descriptor = descriptor;
    ret->system_calls = !flags;
    ret->write_protect = api.features & features & UFFD_FEATURE_PAGEFAULT_FLAG_WP;
    ret->poison = api.features & (1 << 14); /* UFFD_FEATURE_POISON, with UFFDIO_POISON */
    return 0;
}

int scratch_userfault_open(struct scratch_userfault *ret) {
    const uint64_t all = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_THREAD_ID;
    int error = open_with_features(0, all, ret);
    if (error == EPERM)
        error = open_with_features(UFFD_USER_MODE_ONLY, all, ret);
    /* EINVAL: a kernel or a processor without write-protection; read-only ranges still work. */
    if (error == EINVAL)
        error = open_with_features(0, UFFD_FEATURE_THREAD_ID, ret);
    return error;
}

int scratch_userfault_register(const struct scratch_userfault *userfault, uintptr_t address,
                               size_t length, bool needs_protection) {
    bool has_protection = userfault->write_protect;
    if (needs_protection && !has_protection)
        return EOPNOTSUPP;
    struct uffdio_register registration = {
        .range = {address, length},
        .mode = UFFDIO_REGISTER_MODE_MISSING | (has_protection ? UFFDIO_REGISTER_MODE_WP : 0),
    };
    return raw_ioctl(userfault->descriptor, UFFDIO_REGISTER, &registration) ? errno : 0;
}

int scratch_userfault_copy(const struct scratch_userfault *userfault, uintptr_t to, uintptr_t from,
                           size_t length, bool protect, size_t *ret_copied) {
    struct uffdio_copy copy = {
        .dst = to,
        .src = from,
        .len = length,
        .mode = UFFDIO_COPY_MODE_DONTWAKE | (protect ? UFFDIO_COPY_MODE_WP : 0),
    };
    int error = raw_ioctl(userfault->descriptor, UFFDIO_COPY, &copy) ? errno : 0;
    *ret_copied = copy.copy > 0 ? (size_t)copy.copy : 0;
    return error;
}

int scratch_userfault_move(const struct scratch_userfault *userfault, uintptr_t to, uintptr_t from,
                           size_t length) {
    struct uffdio_move move = {
        .dst = to,
        .src = from,
        .len = length,
        .mode = UFFDIO_MOVE_MODE_DONTWAKE,
    };
    while (raw_ioctl(userfault->descriptor, UFFDIO_MOVE, &move)) {
        if (errno != EAGAIN || move.move > 0)
            return errno;
    }
    return 0;
}

int scratch_userfault_poison(const struct scratch_userfault *userfault, uintptr_t page) {
    if (!userfault->poison)
        return EOPNOTSUPP;
    int result;
    do {
        struct uffdio_poison poison = {.range = {page, scratch_page_size()}};
        result = raw_ioctl(userfault->descriptor, UFFDIO_POISON, &poison);
    } while (result && errno == EAGAIN); /* the address space is changing */
    return result ? errno : 0;
}

static int write_protect_at_once(const struct scratch_userfault *userfault, uintptr_t address,
                                 size_t length, bool protect) {
    struct uffdio_writeprotect request = {
        .range = {address, length},
        .mode = protect ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
    };
    while (raw_ioctl(userfault->descriptor, UFFDIO_WRITEPROTECT, &request)) {
        if (errno != EAGAIN)
            return errno;
    }
    return 0;
}

/*
 * The kernel may refuse with ENOENT what crosses the edge of a pinned part, because mlock has split
 * the mapping there: then page by page.
 */
int scratch_userfault_write_protect(const struct scratch_userfault *userfault, uintptr_t address,
                                    size_t length, bool protect) {
    size_t page_size = scratch_page_size();
    int error = write_protect_at_once(userfault, address, length, protect);
    if (error != ENOENT || length == page_size)
        return error;
    error = 0;
    for (size_t offset = 0; offset < length && !error; offset += page_size)
        error = write_protect_at_once(userfault, address + offset, page_size, protect);
    return error;
}

void scratch_userfault_wake(const struct scratch_userfault *userfault, uintptr_t address,
                            size_t length) {
    struct uffdio_range range = {address, length};
    raw_ioctl(userfault->descriptor, UFFDIO_WAKE, &range);
}
