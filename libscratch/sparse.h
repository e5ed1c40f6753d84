/* SPDX-License-Identifier: Apache-2.0 */
/* Zeroed memory that costs nothing until it is touched: one entry for each page of a large mapping. */
#ifndef SCRATCH_SPARSE_H
#define SCRATCH_SPARSE_H

#include <stddef.h>

void *scratch_sparse_allocate(size_t bytes);
/* With the number of bytes that it was allocated with; NULL is allowed. */
void scratch_sparse_free(void *memory, size_t bytes);

#endif
