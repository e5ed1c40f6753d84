/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An application's thread blocks its signals while it holds a lock of ours: a handler may touch scratch
 * memory, and would then wait for its own thread.
 */
#ifndef SCRATCH_SIGNALS_H
#define SCRATCH_SIGNALS_H

#include <signal.h>

void scratch_signals_block(sigset_t *ret_previous);
void scratch_signals_restore(const sigset_t *previous);

#endif
