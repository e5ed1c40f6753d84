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

/* From here to the end of the block, however that is left. Before the locks that are taken in it. */
#define scratch_without_signals()                                                                \
    __attribute__((cleanup(scratch_signals_restore))) sigset_t previous_signals;                 \
    scratch_signals_block(&previous_signals)

#endif
