/* SPDX-License-Identifier: Apache-2.0 */
#include "callee.h"

#include <stdarg.h>

#define X(number)                                                                                  \
    unsigned long callee_##number(unsigned long value);                                            \
    unsigned long callee_##number(unsigned long value) { return expected_result(number, value); }
ALL
#undef X

double many_arguments(long a, double b, long c, double d, long e, double f, long g, double h, long i,
                      double j, long k, double l, long m, double n) {
    return (double)(a + 2 * c + 3 * e + 4 * g + 5 * i + 6 * k + 7 * m) + b + 2 * d + 3 * f + 4 * h +
           5 * j + 6 * l + 7 * n;
}

double variadic(int count, ...) {
    va_list arguments;
    double sum = 0;
    va_start(arguments, count);
    for (int index = 0; index < count; index++)
        sum += va_arg(arguments, double) * (index + 1);
    va_end(arguments);
    return sum;
}

__attribute__((target("avx"))) vector add_vectors(vector one, vector other) { return one + other; }
