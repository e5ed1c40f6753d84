/* SPDX-License-Identifier: Apache-2.0 */
#include "number.h"

#include <stdint.h>

const char *scratch_number_name(enum scratch_number number) {
#define NAME_ENTRY(NAME, SIZE) #NAME,
    static const char *const names[] = {SCRATCH_NUMBERS(NAME_ENTRY)};
    return names[number];
}

size_t scratch_number_size(enum scratch_number number) {
#define SIZE_ENTRY(NAME, SIZE) SIZE,
    static const uint8_t sizes[] = {SCRATCH_NUMBERS(SIZE_ENTRY)};
    return sizes[number];
}
