/* SPDX-License-Identifier: Apache-2.0 */
/* The pager's userfaultfd: opening it, and its requests. They know addresses and no ranges. */
#ifndef SCRATCH_USERFAULT_H
#define SCRATCH_USERFAULT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "uapi.h"

struct scratch_userfault {
    int descriptor; /* -1 if there is none */
    bool system_calls;
    bool write_protect;
    bool poison;
};

/* All return 0 or an errno value. */
int scratch_userfault_open(struct scratch_userfault *ret);
/* EOPNOTSUPP: stores must be seen (`needs_protection`), and can't be. */
int scratch_userfault_register(const struct scratch_userfault *userfault, uintptr_t address,
                               size_t length, bool needs_protection);
/* Puts pages where none are; who waits isn't woken. *ret_copied bytes were put, also after an error. */
int scratch_userfault_copy(const struct scratch_userfault *userfault, uintptr_t to, uintptr_t from,
                           size_t length, bool protect, size_t *ret_copied);
/* The same, of pages that leave where they were. All of them or none. */
int scratch_userfault_move(const struct scratch_userfault *userfault, uintptr_t to, uintptr_t from,
                           size_t length);
/* From now on a touch of the page ends in SIGBUS, as with mmap. Needs Linux 6.6. */
int scratch_userfault_poison(const struct scratch_userfault *userfault, uintptr_t page);
int scratch_userfault_write_protect(const struct scratch_userfault *userfault, uintptr_t address,
                                    size_t length, bool protect);
void scratch_userfault_wake(const struct scratch_userfault *userfault, uintptr_t address,
                            size_t length);

#endif
