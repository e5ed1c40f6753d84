/* SPDX-License-Identifier: Apache-2.0 */
#include "signals.h"

#include <pthread.h>

void scratch_signals_block(sigset_t *ret_previous) {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, ret_previous);
}

void scratch_signals_restore(const sigset_t *previous) {
    pthread_sigmask(SIG_SETMASK, previous, NULL);
}
