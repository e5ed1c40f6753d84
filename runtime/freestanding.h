/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Before every file of this library (-include): what libscratch's drop policy, and we, call of the C library is
 * ours (freestanding.c), under names that nobody else gives. It touches nothing of the program's: its allocator
 * may be one that knows of no second thread, and on the reclaimer's thread the C library doesn't work (reclaim.c).
 *
 * Only the four functions of memory keep their names, because compilers call them by themselves, anywhere. Hidden,
 * so that nobody else's are called, and that ours are nobody else's. What isn't here can't be called: the
 * library is linked with nothing that has it.
 */
#ifndef __ASSEMBLER__ /* entry.S comes through here too */
#ifndef MAPSCRATCH_FREESTANDING_H
#define MAPSCRATCH_FREESTANDING_H

/* However it came to be defined: by the compiler, on its command line, or past the command line (-Wp,). */
#undef _FORTIFY_SOURCE
#define _FORTIFY_SOURCE 0 /* else the headers have the four checked, under other names */

/* All headers that declare what is renamed come first, so that calls are renamed and nothing else. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#pragma GCC visibility push(hidden)

extern int runtime_errno;
#undef errno
#define errno runtime_errno

long runtime_syscall(long number, ...);
#define syscall(...) runtime_syscall(__VA_ARGS__)
long runtime_sysconf(int name);
#define sysconf(name) runtime_sysconf(name)
int runtime_madvise(void *address, size_t length, int advice);
#define madvise(address, length, advice) runtime_madvise(address, length, advice)
void *runtime_mmap(void *address, size_t length, int protection, int flags, int file, off_t at);
#define mmap(address, length, protection, flags, file, at)                                       \
    runtime_mmap(address, length, protection, flags, file, at)
int runtime_munmap(void *address, size_t length);
#define munmap(address, length) runtime_munmap(address, length)

void *runtime_calloc(size_t count, size_t bytes);
#define calloc(count, bytes) runtime_calloc(count, bytes)
void *runtime_realloc(void *memory, size_t bytes);
#define realloc(memory, bytes) runtime_realloc(memory, bytes)
void runtime_free(void *memory);
#define free(memory) runtime_free(memory)

char *runtime_strdup(const char *text);
#define strdup(text) runtime_strdup(text)
char *runtime_strcpy(char *to, const char *from);
#define strcpy(to, from) runtime_strcpy(to, from)
size_t runtime_strlen(const char *text);
#define strlen(text) runtime_strlen(text)
size_t runtime_strcspn(const char *text, const char *ends);
#define strcspn(text, ends) runtime_strcspn(text, ends)
/* No end, and base ten. */
long runtime_strtol(const char *text, char **end, int base);
#define strtol(text, end, base) runtime_strtol(text, end, base)
/* %s and %d. */
int runtime_snprintf(char *to, size_t size, const char *format, ...);
#define snprintf(...) runtime_snprintf(__VA_ARGS__)

void *memcpy(void *to, const void *from, size_t count);
void *memmove(void *to, const void *from, size_t count);
void *memset(void *memory, int byte, size_t count);
int memcmp(const void *one, const void *other, size_t count);

#pragma GCC visibility pop

#endif
#endif
