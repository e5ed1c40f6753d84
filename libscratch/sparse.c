/* SPDX-License-Identifier: Apache-2.0 */
#include "sparse.h"

#include <stdlib.h>
#include <sys/mman.h>

/* A small table isn't worth pages of its own. */
enum { SPARSE_BYTES = 1024 };

/* Memory that costs nothing until it is touched: one entry for each page of a large mapping. */
void *scratch_sparse_allocate(size_t bytes) {
    if (bytes < SPARSE_BYTES)
        return calloc(1, bytes);
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

void scratch_sparse_free(void *memory, size_t bytes) {
    if (bytes < SPARSE_BYTES)
        free(memory);
    else if (memory)
        munmap(memory, bytes);
}
