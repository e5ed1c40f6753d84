/* SPDX-License-Identifier: Apache-2.0 */
#include "tell.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>

#include "raw.h"

/*
 * Opening it again fails where it belongs to another user (after setuid, say). A descriptor of the
 * process can be had without opening anything, but some sandboxes forbid that.
 */
static int open_standard_error(void) {
    int descriptor = raw_open("/proc/self/fd/2", O_WRONLY | O_APPEND | O_NOCTTY);
    if (descriptor >= 0)
        return descriptor;
    int process = (int)syscall(SYS_pidfd_open, getpid(), 0);
    if (process < 0)
        return -1;
    descriptor = (int)syscall(SYS_pidfd_getfd, process, STDERR_FILENO, 0);
    raw_close(process);
    return descriptor;
}

void scratch_tell(const char *format, ...) {
    char line[PATH_MAX + 512];
    va_list arguments;
    va_start(arguments, format);
    int wanted = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (wanted < 0)
        return;
    size_t length = (size_t)wanted < sizeof line ? (size_t)wanted : sizeof line - 1;
    int descriptor = open_standard_error();
    if (descriptor < 0)
        return;
    for (size_t done = 0; done < length;) {
        long written = raw_write(descriptor, line + done, length - done);
        if (written <= 0)
            break;
        done += (size_t)written;
    }
    raw_close(descriptor);
}
