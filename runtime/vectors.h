/* SPDX-License-Identifier: Apache-2.0 */
/* How `call_keeping_vectors` (entry.S) saves vector registers on this processor. */
#ifndef MAPSCRATCH_VECTORS_H
#define MAPSCRATCH_VECTORS_H

#define VECTOR_STATE_BYTES 3072
#define VECTOR_SAVE_LEGACY 0
#define VECTOR_SAVE_WHOLE 1
#define VECTOR_SAVE_COMPACT 2

#ifndef __ASSEMBLER__
#include <stdint.h>

/* Chooses the method. */
void vectors_prepare(void);

uintptr_t call_keeping_vectors(void *function, uintptr_t first, uintptr_t second);
#endif

#endif
