/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCRATCH_TELL_H
#define SCRATCH_TELL_H

/*
 * Writes one line to the application's standard error, from any thread: through /proc, because the
 * pager's descriptor table doesn't hold it.
 */
void scratch_tell(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
