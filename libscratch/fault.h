/* SPDX-License-Identifier: Apache-2.0 */
/* What is done about one page fault. On the pager's thread. */
#ifndef SCRATCH_FAULT_H
#define SCRATCH_FAULT_H

#include <stdbool.h>
#include <stdint.h>

#include "userfault.h"

/* `is_late`: others were served since it was read. */
void scratch_fault_serve(const struct scratch_userfault *userfault, const struct uffd_msg *message,
                         uint64_t now, bool is_late);

#endif
