/* SPDX-License-Identifier: Apache-2.0 */
/* Text pages of a file, private: MAP_SCRATCH where the kernel has it. */
#ifndef MAPSCRATCH_SCRATCHMAP_H
#define MAPSCRATCH_SCRATCHMAP_H

#include <stdbool.h>
#include <stdint.h>

/* Whether this kernel has MAP_SCRATCH, tried with `file`; the answer is remembered. */
bool scratchmap_works(int file);

/*
 * Maps pages of the file over [first, end), readable and executable; false if nothing changed. With MAP_SCRATCH
 * if `as_scratch`, else MAP_PRIVATE.
 */
bool scratchmap_text(uintptr_t first, uintptr_t end, int file, uint64_t offset, bool as_scratch);

#endif
