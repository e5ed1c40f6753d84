/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The few functions of the C library that libscratch's drop policy uses, in a form that touches
 * nothing of the program's: its allocator may be one that knows of no second thread, and on the
 * reclaimer's thread the C library doesn't work (reclaim.c).
 *
 * Only that thread uses them, so nothing here is locked. Compilers call the four of memory by themselves, anywhere.
 * The names stay what they are here because of own_names.h.
 */
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include "arena.h"
#include "system.h"

#define HIDDEN __attribute__((visibility("hidden")))

HIDDEN int *__errno_location(void);
HIDDEN long syscall(long number, ...);
HIDDEN long sysconf(int name);
HIDDEN int madvise(void *address, size_t length, int advice);
HIDDEN void *mmap(void *address, size_t length, int protection, int flags, int file, off_t at);
HIDDEN int munmap(void *address, size_t length);
HIDDEN void *malloc(size_t bytes);
HIDDEN void *calloc(size_t count, size_t bytes);
HIDDEN void *realloc(void *memory, size_t bytes);
HIDDEN void free(void *memory);
HIDDEN char *strdup(const char *text);
HIDDEN char *strcpy(char *to, const char *from);
HIDDEN size_t strlen(const char *text);
HIDDEN size_t strcspn(const char *text, const char *ends);
HIDDEN void *memcpy(void *to, const void *from, size_t count);
HIDDEN void *memmove(void *to, const void *from, size_t count);
HIDDEN void *memset(void *memory, int byte, size_t count);
HIDDEN int memcmp(const void *one, const void *other, size_t count);
HIDDEN int memcmp(const void *one, const void *other, size_t count) {
    const unsigned char *left = one;
    const unsigned char *right = other;
    for (; count; count--, left++, right++) {
        if (*left != *right)
            return *left < *right ? -1 : 1;
    }
    return 0;
}

long strtol(const char *text, char **end, int base);
HIDDEN int snprintf(char *to, size_t size, const char *format, ...);

static int last_error;

int *__errno_location(void) { return &last_error; }

static long with_errno(long result) {
    if (result >= 0 || result < -4095)
        return result;
    last_error = (int)-result;
    return -1;
}

long syscall(long number, ...) {
    va_list arguments;
    long values[6];
    va_start(arguments, number);
    for (int index = 0; index < 6; index++)
        values[index] = va_arg(arguments, long);
    va_end(arguments);
    return with_errno(system_call(number, values[0], values[1], values[2], values[3], values[4],
                                  values[5]));
}

long sysconf(int name) { return name == _SC_PAGESIZE ? 4096 : -1; }

int madvise(void *address, size_t length, int advice) {
    return (int)with_errno(system_advise(address, length, advice));
}

void *mmap(void *address, size_t length, int protection, int flags, int file, off_t at) {
    return (void *)with_errno(
        (long)system_map(address, length, protection, flags, file, (uint64_t)at));
}

int munmap(void *address, size_t length) {
    system_unmap(address, length);
    return 0;
}

/* In front of each allocation, so that it can be copied when it grows. */
struct header {
    size_t bytes;
    size_t unused; /* 16 bytes of alignment */
};

void *malloc(size_t bytes) {
    struct header *header = arena_allocate(sizeof *header + bytes);
    if (!header)
        return NULL;
    header->bytes = bytes;
    return header + 1;
}

void *calloc(size_t count, size_t bytes) {
    size_t product;
    return __builtin_mul_overflow(count, bytes, &product) ? NULL : malloc(product);
}

void *realloc(void *memory, size_t bytes) {
    size_t kept = memory ? ((struct header *)memory - 1)->bytes : 0;
    void *grown = malloc(bytes);
    if (grown && memory)
        memcpy(grown, memory, kept < bytes ? kept : bytes);
    return grown;
}

void free(void *memory) { (void)memory; }

size_t strlen(const char *text) { return text_length(text); }

char *strcpy(char *to, const char *from) { return memcpy(to, from, text_length(from) + 1); }

char *strdup(const char *text) {
    char *copy = malloc(text_length(text) + 1);
    return copy ? strcpy(copy, text) : NULL;
}

size_t strcspn(const char *text, const char *ends) {
    size_t length = 0;
    for (; text[length]; length++) {
        for (const char *end = ends; *end; end++) {
            if (text[length] == *end)
                return length;
        }
    }
    return length;
}

void *memmove(void *to, const void *from, size_t count) {
    unsigned char *target = to;
    const unsigned char *source = from;
    if (target <= source) {
        for (size_t index = 0; index < count; index++)
            target[index] = source[index];
    } else {
        while (count--)
            target[count] = source[count];
    }
    return to;
}

void *memcpy(void *to, const void *from, size_t count) { return memmove(to, from, count); }

void *memset(void *memory, int byte, size_t count) {
    unsigned char *target = memory;
    for (size_t index = 0; index < count; index++)
        target[index] = (unsigned char)byte;
    return memory;
}

long strtol(const char *text, char **end, int base) {
    (void)end, (void)base; /* none, and ten */
    long number = 0;
    for (; *text >= '0' && *text <= '9'; text++)
        number = 10 * number + (*text - '0');
    return number;
}

struct output {
    char *to;
    size_t size;
    size_t length;
};

static void put(struct output *output, char character) {
    if (output->length + 1 < output->size)
        output->to[output->length] = character;
    output->length++;
}

static void put_number(struct output *output, int number) {
    char digits[12];
    size_t count = 0;
    unsigned left = number < 0 ? 0u - (unsigned)number : (unsigned)number;
    if (number < 0)
        put(output, '-');
    do {
        digits[count++] = (char)('0' + left % 10);
        left /= 10;
    } while (left);
    while (count)
        put(output, digits[--count]);
}

/* %s and %d. */
int snprintf(char *to, size_t size, const char *format, ...) {
    struct output output = {to, size, 0};
    va_list arguments;
    va_start(arguments, format);
    for (; *format; format++) {
        if (*format != '%') {
            put(&output, *format);
            continue;
        }
        format++;
        if (*format == 'd')
            put_number(&output, va_arg(arguments, int));
        for (const char *text = *format == 's' ? va_arg(arguments, const char *) : ""; *text; text++)
            put(&output, *text);
    }
    va_end(arguments);
    if (size)
        to[output.length < size ? output.length : size - 1] = '\0';
    return (int)output.length;
}
