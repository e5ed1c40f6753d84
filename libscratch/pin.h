/* SPDX-License-Identifier: Apache-2.0 */
/* Pages that stay until they are released. Offsets and lengths are multiples of the page size, inside the range. */
#ifndef SCRATCH_PIN_H
#define SCRATCH_PIN_H

#include <stddef.h>
#include <stdint.h>

struct scratch_range;

/* Pins are counted by page. `unpin` takes the generation that `pin` gave; over fork it changes. */
int scratch_range_pin(struct scratch_range *range, size_t offset, size_t length,
                      uint64_t *ret_generation);
int scratch_range_unpin(struct scratch_range *range, size_t offset, size_t length,
                        uint64_t generation);

#endif
