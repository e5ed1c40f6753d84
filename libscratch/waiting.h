/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a thread does that waits for a page: proc(5), /proc/PID/syscall.
 */
#ifndef SCRATCH_WAITING_H
#define SCRATCH_WAITING_H

#include <stdbool.h>
#include <sys/types.h>

/*
 * Whether it is one of this process's that stores or loads by itself. False where it may be in a system
 * call, another process's, or where /proc doesn't say.
 */
bool scratch_waits_outside_of_system_calls(pid_t thread);

#endif
