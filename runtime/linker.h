/* SPDX-License-Identifier: Apache-2.0 */
/* The dynamic linker's own way to bind one PLT entry, and which library an address belongs to. */
#ifndef MAPSCRATCH_LINKER_H
#define MAPSCRATCH_LINKER_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Finds glibc's `_dl_fixup` and tries it out; false if this glibc can't be read with certainty.
 * Cheap after the first time.
 */
bool linker_find(void);

/* Whether this is the loader hook's namespace, where there is no C library. */
bool linker_is_hook(void);

/* What ld.so would bind entry `index` of the library to; 0 for a weak symbol that nobody defines. */
uintptr_t linker_bind(uintptr_t link_map, uint32_t index);

/* The link map of the library that holds `address`, or 0. */
uintptr_t linker_library_at(uintptr_t address);

#endif
