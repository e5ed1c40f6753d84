/* SPDX-License-Identifier: Apache-2.0 */
/* Functions in one library that another calls through PLT entries; X(n) is expanded for each. */
#ifndef CALLEE_H
#define CALLEE_H

#define X16(p) X(p##0) X(p##1) X(p##2) X(p##3) X(p##4) X(p##5) X(p##6) X(p##7) \
               X(p##8) X(p##9) X(p##a) X(p##b) X(p##c) X(p##d) X(p##e) X(p##f)
#define X256(p) X16(p##0) X16(p##1) X16(p##2) X16(p##3) X16(p##4) X16(p##5) X16(p##6) X16(p##7) \
                X16(p##8) X16(p##9) X16(p##a) X16(p##b) X16(p##c) X16(p##d) X16(p##e) X16(p##f)
#define ALL X256(0x0) X256(0x1) X256(0x2) X256(0x3)

enum { FUNCTIONS = 1024 };

/* What function `number` returns for `value`. */
static inline unsigned long expected_result(unsigned long number, unsigned long value) {
    return value * 2654435761u + number;
}

/* The callers: function i calls callee i through its PLT entry. */
extern unsigned long (*const callers[FUNCTIONS])(unsigned long value);

/* Sums that are wrong if a register was not as the caller left it. */
double many_arguments(long a, double b, long c, double d, long e, double f, long g, double h, long i,
                      double j, long k, double l, long m, double n);
double call_many_arguments(void);
double variadic(int count, ...);
double call_variadic(void);
typedef double vector __attribute__((vector_size(32)));
vector add_vectors(vector one, vector other);
double call_add_vectors(void);

#endif
