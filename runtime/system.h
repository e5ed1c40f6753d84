/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System calls without the C library: in the resolver even errno and memcpy may be somebody's
 * function that is being resolved right now. Results are the kernel's: negative errno on failure.
 */
#ifndef MAPSCRATCH_SYSTEM_H
#define MAPSCRATCH_SYSTEM_H

#include <fcntl.h>
#include <linux/stat.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>

static inline long system_call(long number, long a, long b, long c, long d, long e, long f) {
    long result;
    register long fourth __asm__("r10") = d;
    register long fifth __asm__("r8") = e;
    register long sixth __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth), "r"(fifth), "r"(sixth)
                     : "rcx", "r11", "memory");
    return result;
}

static inline int is_failure(const void *mapped) { return (uintptr_t)mapped > (uintptr_t)-4096; }

static inline void *system_map(void *address, size_t length, int protection, int flags, int file,
                               uint64_t offset) {
    return (void *)system_call(SYS_mmap, (long)address, (long)length, protection, flags, file,
                               (long)offset);
}

static inline void *system_allocate(size_t length) {
    return system_map(NULL, length, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

static inline void system_unmap(void *address, size_t length) {
    system_call(SYS_munmap, (long)address, (long)length, 0, 0, 0, 0);
}

static inline long system_protect(uintptr_t address, size_t length, int protection) {
    return system_call(SYS_mprotect, (long)address, (long)length, protection, 0, 0, 0);
}

static inline long system_advise(void *address, size_t length, int advice) {
    return system_call(SYS_madvise, (long)address, (long)length, advice, 0, 0, 0);
}

static inline int system_open(const char *path, int flags) {
    return (int)system_call(SYS_openat, AT_FDCWD, (long)path, flags | O_CLOEXEC, 0, 0, 0);
}

static inline void system_close(int file) { system_call(SYS_close, file, 0, 0, 0, 0, 0); }

static inline long system_read_at(int file, void *bytes, size_t count, uint64_t offset) {
    return system_call(SYS_pread64, file, (long)bytes, (long)count, (long)offset, 0, 0);
}

static inline long system_write(int file, const void *bytes, size_t count) {
    return system_call(SYS_write, file, (long)bytes, (long)count, 0, 0, 0);
}

/* By path, or of an open file with an empty path. */
static inline long system_stat(int file, const char *path, struct statx *ret) {
    return system_call(SYS_statx, file, (long)path, *path ? 0 : 0x1000 /* AT_EMPTY_PATH */,
                       STATX_BASIC_STATS, (long)ret, 0);
}

static inline size_t text_length(const char *text) {
    size_t length = 0;
    while (text[length])
        length++;
    return length;
}

static inline int text_equal(const char *one, const char *other) {
    while (*one && *one == *other)
        one++, other++;
    return *one == *other;
}

/* The value if `entry` of the environment is `name`=value, else NULL. */
static inline const char *value_of(const char *entry, const char *name) {
    while (*name && *entry == *name)
        entry++, name++;
    return !*name && *entry == '=' ? entry + 1 : NULL;
}

static inline const char *find_variable(char *const *environment, const char *name) {
    for (; environment && *environment; environment++) {
        const char *value = value_of(*environment, name);
        if (value)
            return value;
    }
    return NULL;
}

static inline void system_tell(const char *message) {
    system_write(2, message, text_length(message));
}

#endif
