/* SPDX-License-Identifier: Apache-2.0 */
#include "callee.h"

#define X(number) unsigned long callee_##number(unsigned long value);
ALL
#undef X

#define X(number)                                                                                  \
    static unsigned long caller_##number(unsigned long value) { return callee_##number(value); }
ALL
#undef X

#define X(number) caller_##number,
unsigned long (*const callers[FUNCTIONS])(unsigned long value) = {ALL};
#undef X

double call_many_arguments(void) {
    return many_arguments(1, 2.5, 3, 4.5, 5, 6.5, 7, 8.5, 9, 10.5, 11, 12.5, 13, 14.5);
}

double call_variadic(void) { return variadic(4, 1.5, 2.5, 3.5, 4.5); }

__attribute__((target("avx"))) double call_add_vectors(void) {
    vector one = {1, 2, 3, 4};
    vector other = {10, 20, 30, 40};
    vector sum = add_vectors(one, other);
    return sum[0] + 2 * sum[1] + 3 * sum[2] + 4 * sum[3];
}
