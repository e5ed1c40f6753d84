/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System calls by number, most of them on the pager's descriptors.
 *
 * The pager's thread has a descriptor table of its own, in which a number means something else than
 * in the rest of the process. The C library, and race detectors and profilers that wrap it, may keep books
 * by number for the whole process; so the pager goes around them. It also keeps the page-fault path
 * free of anything that another library could have interposed.
 */
#ifndef SCRATCH_RAW_H
#define SCRATCH_RAW_H

#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static inline long raw_read(int descriptor, void *bytes, size_t count) {
    return syscall(SYS_read, descriptor, bytes, count);
}

static inline long raw_pread(int descriptor, void *bytes, size_t count, off_t offset) {
    return syscall(SYS_pread64, descriptor, bytes, count, offset);
}

static inline long raw_write(int descriptor, const void *bytes, size_t count) {
    return syscall(SYS_write, descriptor, bytes, count);
}

static inline int raw_open(const char *path, int flags) {
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, 0);
}

static inline void raw_close(int descriptor) { syscall(SYS_close, descriptor); }

/* Sanitizers turn munlock(3) into nothing; mlock2 has no wrapper in older C libraries. */
static inline int raw_munlock(void *address, size_t length) {
    return (int)syscall(SYS_munlock, address, length);
}

static inline int raw_mlock_on_fault(void *address, size_t length) {
    return (int)syscall(SYS_mlock2, address, length, 1 /* MLOCK_ONFAULT */);
}

static inline int raw_ioctl(int descriptor, unsigned long request, void *argument) {
    return (int)syscall(SYS_ioctl, descriptor, request, argument);
}

static inline int raw_poll(struct pollfd *entries, size_t count, const struct timespec *timeout) {
    struct timespec remaining = {0, 0};
    if (timeout)
        remaining = *timeout; /* the system call writes what is left of it */
    return (int)syscall(SYS_ppoll, entries, count, timeout ? &remaining : NULL, NULL, 0);
}

#endif
