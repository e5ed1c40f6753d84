/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What freestanding.h declares. Only the reclaimer's thread uses it, so nothing here is locked; but the four
 * functions of memory may be called anywhere.
 */
#include <stdarg.h>
#include <stdint.h>

#include "arena.h"
#include "system.h"

int runtime_errno;

static long with_errno(long result) {
    if (result >= 0 || result < -4095)
        return result;
    runtime_errno = (int)-result;
    return -1;
}

long runtime_syscall(long number, ...) {
    va_list arguments;
    long values[6];
    va_start(arguments, number);
    for (int index = 0; index < 6; index++)
        values[index] = va_arg(arguments, long);
    va_end(arguments);
    return with_errno(system_call(number, values[0], values[1], values[2], values[3], values[4],
                                  values[5]));
}

long runtime_sysconf(int name) { return name == _SC_PAGESIZE ? 4096 : -1; }

int runtime_madvise(void *address, size_t length, int advice) {
    return (int)with_errno(system_advise(address, length, advice));
}

void *runtime_mmap(void *address, size_t length, int protection, int flags, int file, off_t at) {
    return (void *)with_errno(
        (long)system_map(address, length, protection, flags, file, (uint64_t)at));
}

int runtime_munmap(void *address, size_t length) {
    system_unmap(address, length);
    return 0;
}

/* In front of each allocation, so that it can be copied when it grows. */
struct header {
    size_t bytes;
    size_t unused; /* 16 bytes of alignment */
};

static void *allocate(size_t bytes) {
    struct header *header = arena_allocate(sizeof *header + bytes);
    if (!header)
        return NULL;
    header->bytes = bytes;
    return header + 1;
}

void *runtime_calloc(size_t count, size_t bytes) {
    size_t product;
    return __builtin_mul_overflow(count, bytes, &product) ? NULL : allocate(product);
}

void *runtime_realloc(void *memory, size_t bytes) {
    size_t kept = memory ? ((struct header *)memory - 1)->bytes : 0;
    void *grown = allocate(bytes);
    if (grown && memory)
        memcpy(grown, memory, kept < bytes ? kept : bytes);
    return grown;
}

void runtime_free(void *memory) { (void)memory; }

size_t runtime_strlen(const char *text) { return text_length(text); }

char *runtime_strcpy(char *to, const char *from) { return memcpy(to, from, text_length(from) + 1); }

char *runtime_strdup(const char *text) {
    char *copy = allocate(text_length(text) + 1);
    return copy ? strcpy(copy, text) : NULL;
}

size_t runtime_strcspn(const char *text, const char *ends) {
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

int memcmp(const void *one, const void *other, size_t count) {
    const unsigned char *left = one;
    const unsigned char *right = other;
    for (; count; count--, left++, right++) {
        if (*left != *right)
            return *left < *right ? -1 : 1;
    }
    return 0;
}

void *memset(void *memory, int byte, size_t count) {
    unsigned char *target = memory;
    for (size_t index = 0; index < count; index++)
        target[index] = (unsigned char)byte;
    return memory;
}

long runtime_strtol(const char *text, char **end, int base) {
    (void)end, (void)base;
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

int runtime_snprintf(char *to, size_t size, const char *format, ...) {
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
