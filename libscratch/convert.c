/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compiled once for any processor and once for newer ones (SCRATCH_CONVERT_VARIANT names the entry).
 *
 * A conversion is a row of plain loops over a tile that stays in the first-level cache: put the bytes
 * in order, widen, take the real part, cast, scale, and so on, as many of these as are needed. So there
 * is a loop for each step and not for each combination of steps, and the compiler vectorises every one.
 * Tiles begin at the same items each time, so that a page comes back with the same bytes even where C
 * leaves a conversion undefined (a float beyond an integer's range).
 */
#include "convert.h"

#include <string.h>

enum { TILE_BYTES = 8192 };

static uint16_t swap_2(uint16_t value) { return __builtin_bswap16(value); }
static uint32_t swap_4(uint32_t value) { return __builtin_bswap32(value); }
static uint64_t swap_8(uint64_t value) { return __builtin_bswap64(value); }

#define DEFINE_SWAP(SIZE, TYPE)                                                                   \
    static void swap_items_##SIZE(TYPE *to, const TYPE *from, size_t count) {                     \
        for (size_t item = 0; item < count; item++)                                               \
            to[item] = swap_##SIZE(from[item]);                                                   \
    }
DEFINE_SWAP(2, uint16_t)
DEFINE_SWAP(4, uint32_t)
DEFINE_SWAP(8, uint64_t)

/* Halves change places too. */
static void swap_items_16(uint64_t *to, const uint64_t *from, size_t count) {
    for (size_t item = 0; item < count; item++) {
        uint64_t low = from[2 * item], high = from[2 * item + 1];
        to[2 * item] = swap_8(high);
        to[2 * item + 1] = swap_8(low);
    }
}

static void swap_items(void *to, const void *from, size_t size, size_t count) {
    switch (size) {
    case 2:
        swap_items_2(to, from, count);
        break;
    case 4:
        swap_items_4(to, from, count);
        break;
    case 8:
        swap_items_8(to, from, count);
        break;
    case 16:
        swap_items_16(to, from, count);
        break;
    default:
        if (to != from)
            memcpy(to, from, size * count);
    }
}

static float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/*
 * Types that are widened to float, which holds all their values, before anything else is done. Those of
 * eight bits are float's own layout, cut short: shifted to float's place, the exponent is too small by
 * the difference of the biases, for subnormal numbers too.
 */
static float load_bf16(uint16_t bits) { return float_of((uint32_t)bits << 16); }

static uint32_t quiet_nan(uint8_t bits) { return (uint32_t)(bits & 0x80) << 24 | 0x7fc00000; }

static uint32_t load_eight(uint8_t bits, int mantissa_bits, int bias) {
    float tiny = float_of((uint32_t)(bits & 0x7f) << (23 - mantissa_bits));
    float value = tiny * float_of((uint32_t)(254 - bias) << 23);
    return bits_of(value) | (uint32_t)(bits & 0x80) << 24;
}

/* As IEEE 754 has it: the largest exponent is for infinity and NaN. */
static float load_eight_ieee(uint8_t bits, int mantissa_bits, int bias) {
    uint8_t magnitude = bits & 0x7f;
    uint8_t infinity = (uint8_t)(0x7f >> mantissa_bits << mantissa_bits);
    uint32_t finite = load_eight(bits, mantissa_bits, bias);
    uint32_t special = magnitude == infinity ? (uint32_t)(bits & 0x80) << 24 | 0x7f800000 : quiet_nan(bits);
    return float_of(magnitude >= infinity ? special : finite);
}

/* "fn", finite: only the largest magnitude is a NaN. */
static float load_eight_finite(uint8_t bits, int mantissa_bits, int bias) {
    return float_of((bits & 0x7f) == 0x7f ? quiet_nan(bits) : load_eight(bits, mantissa_bits, bias));
}

/* "fnuz", finite, with an unsigned zero: what would be -0 is the NaN. */
static float load_eight_unsigned_zero(uint8_t bits, int mantissa_bits, int bias) {
    return float_of(bits == 0x80 ? quiet_nan(bits) : load_eight(bits, mantissa_bits, bias));
}

static float load_f8e3m4(uint8_t bits) { return load_eight_ieee(bits, 4, 3); }
static float load_f8e4m3(uint8_t bits) { return load_eight_ieee(bits, 3, 7); }
static float load_f8e5m2(uint8_t bits) { return load_eight_ieee(bits, 2, 15); }
static float load_f8e4m3fn(uint8_t bits) { return load_eight_finite(bits, 3, 7); }
static float load_f8e4m3fnuz(uint8_t bits) { return load_eight_unsigned_zero(bits, 3, 8); }
static float load_f8e5m2fnuz(uint8_t bits) { return load_eight_unsigned_zero(bits, 2, 16); }
static float load_f8e4m3b11fnuz(uint8_t bits) { return load_eight_unsigned_zero(bits, 3, 11); }

/* An exponent and nothing else; 0 is 2^-127, a subnormal float. */
static float load_f8e8m0fnu(uint8_t bits) {
    uint32_t power = bits ? (uint32_t)bits << 23 : 0x00400000;
    return float_of(bits == 0xff ? 0x7fc00000 : power);
}

#define FOR_EACH_NARROW_FLOAT(X)                                                                  \
    X(bf16, uint16_t) X(f8e3m4, uint8_t) X(f8e4m3, uint8_t) X(f8e5m2, uint8_t)                    \
    X(f8e4m3fn, uint8_t) X(f8e4m3fnuz, uint8_t) X(f8e5m2fnuz, uint8_t)                            \
    X(f8e4m3b11fnuz, uint8_t) X(f8e8m0fnu, uint8_t)

#define DEFINE_WIDEN(NAME, STORED)                                                                \
    static void widen_##NAME(float *restrict to, const void *restrict source, size_t count) {     \
        const STORED *from = source;                                                              \
        for (size_t item = 0; item < count; item++)                                               \
            to[item] = load_##NAME(from[item]);                                                   \
    }
FOR_EACH_NARROW_FLOAT(DEFINE_WIDEN)

typedef void (*widen_function)(float *restrict to, const void *restrict source, size_t count);

#define WIDEN_ENTRY(NAME, STORED) [SCRATCH_NUMBER_##NAME] = widen_##NAME,
static const widen_function widens[SCRATCH_NUMBER_COUNT] = {FOR_EACH_NARROW_FLOAT(WIDEN_ENTRY)};

/*
 * The half that is nearest to a double. Half would be rounded twice by way of an ordinary float; a float
 * rounded to odd (what is cut off sets the last bit) is on the right side of every half's limits.
 */
static _Float16 half_of_double(double value) {
    float near = (float)value;
    bool is_exact = (double)near == value || value != value;
    bool is_beyond = __builtin_fabs((double)near) > __builtin_fabs(value);
    uint32_t odd = (bits_of(near) - is_beyond) | 1;
    return (_Float16)float_of(is_exact ? bits_of(near) : odd);
}

#define AS_IT_IS(value) (value)
#define IS_SET(value) ((value) != 0)
#define HALF_OF_FLOAT(value) ((_Float16)(float)(value))
#define HALF_OF_DOUBLE(value) half_of_double((double)(value))

/* NumPy makes a half out of a float or a double, whichever the source fits better. */
#define FOR_EACH_SOURCE(X, OUTPUT, TYPE)                                                          \
    X(b1, uint8_t, IS_SET, HALF_OF_FLOAT, OUTPUT, TYPE)                                           \
    X(i1, int8_t, AS_IT_IS, HALF_OF_FLOAT, OUTPUT, TYPE)                                          \
    X(i2, int16_t, AS_IT_IS, HALF_OF_FLOAT, OUTPUT, TYPE)                                         \
    X(i4, int32_t, AS_IT_IS, HALF_OF_FLOAT, OUTPUT, TYPE)                                         \
    X(i8, int64_t, AS_IT_IS, HALF_OF_FLOAT, OUTPUT, TYPE)                                         \
    X(u1, uint8_t, AS_IT_IS, HALF_OF_FLOAT, OUTPUT, TYPE)                                         \
    X(u2, uint16_t, AS_IT_IS, HALF_OF_FLOAT, OUTPUT, TYPE)                                        \
    X(u4, uint32_t, AS_IT_IS, HALF_OF_FLOAT, OUTPUT, TYPE)                                        \
    X(u8, uint64_t, AS_IT_IS, HALF_OF_FLOAT, OUTPUT, TYPE)                                        \
    X(f2, _Float16, (float), HALF_OF_FLOAT, OUTPUT, TYPE)                                         \
    X(f4, float, AS_IT_IS, HALF_OF_FLOAT, OUTPUT, TYPE)                                           \
    X(f8, double, AS_IT_IS, HALF_OF_DOUBLE, OUTPUT, TYPE)                                         \
    X(f16, long double, AS_IT_IS, HALF_OF_DOUBLE, OUTPUT, TYPE)

#define FOR_EACH_INTEGER(X)                                                                       \
    X(i1, int8_t) X(i2, int16_t) X(i4, int32_t) X(i8, int64_t)                                    \
    X(u1, uint8_t) X(u2, uint16_t) X(u4, uint32_t) X(u8, uint64_t)
#define FOR_EACH_WIDE_FLOAT(X) X(f4, float) X(f8, double) X(f16, long double)
#define FOR_EACH_OUTPUT_BUT_HALF(X) X(b1, bool) FOR_EACH_INTEGER(X) FOR_EACH_WIDE_FLOAT(X)

#define DEFINE_CAST(SOURCE, STORED, LOAD, HALF, OUTPUT, TYPE)                                      \
    static void cast_##SOURCE##_##OUTPUT(void *restrict output, const void *restrict source,      \
                                         size_t count) {                                          \
        const STORED *from = source;                                                              \
        TYPE *to = output;                                                                        \
        for (size_t item = 0; item < count; item++)                                               \
            to[item] = (TYPE)LOAD(from[item]);                                                    \
    }
#define DEFINE_CAST_TO_HALF(SOURCE, STORED, LOAD, HALF, OUTPUT, TYPE)                             \
    static void cast_##SOURCE##_##OUTPUT(void *restrict output, const void *restrict source,      \
                                         size_t count) {                                          \
        const STORED *from = source;                                                              \
        TYPE *to = output;                                                                        \
        for (size_t item = 0; item < count; item++)                                               \
            to[item] = HALF(LOAD(from[item]));                                                    \
    }
#define DEFINE_CASTS(OUTPUT, TYPE) FOR_EACH_SOURCE(DEFINE_CAST, OUTPUT, TYPE)
FOR_EACH_OUTPUT_BUT_HALF(DEFINE_CASTS)
FOR_EACH_SOURCE(DEFINE_CAST_TO_HALF, f2, _Float16)

/* Integers of 128 bits are only on the way: no integer source's scaled sum is lost in them. */
#define DEFINE_CAST_TO_SUM(SOURCE, STORED)                                                        \
    DEFINE_CAST(SOURCE, STORED, AS_IT_IS, AS_IT_IS, i16, __int128)
#define DEFINE_CAST_OF_SUM(OUTPUT, TYPE)                                                          \
    DEFINE_CAST(i16, __int128, AS_IT_IS, HALF_OF_DOUBLE, OUTPUT, TYPE)
FOR_EACH_INTEGER(DEFINE_CAST_TO_SUM)
DEFINE_CAST_TO_SUM(b1, bool)
FOR_EACH_WIDE_FLOAT(DEFINE_CAST_OF_SUM)
DEFINE_CAST_TO_HALF(i16, __int128, AS_IT_IS, HALF_OF_DOUBLE, f2, _Float16)

typedef void (*cast_function)(void *restrict output, const void *restrict source, size_t count);

#define CAST_ENTRY(SOURCE, STORED, LOAD, HALF, OUTPUT, TYPE)                                       \
    [SCRATCH_NUMBER_##OUTPUT][SCRATCH_NUMBER_##SOURCE] = cast_##SOURCE##_##OUTPUT,
#define CAST_ENTRIES(OUTPUT, TYPE) FOR_EACH_SOURCE(CAST_ENTRY, OUTPUT, TYPE)
#define CAST_TO_SUM_ENTRY(SOURCE, STORED) [SCRATCH_NUMBER_i16][SCRATCH_NUMBER_##SOURCE] = cast_##SOURCE##_i16,
#define CAST_OF_SUM_ENTRY(OUTPUT, TYPE) [SCRATCH_NUMBER_##OUTPUT][SCRATCH_NUMBER_i16] = cast_i16_##OUTPUT,
static const cast_function casts[SCRATCH_NUMBER_COUNT][SCRATCH_NUMBER_COUNT] = {
    FOR_EACH_OUTPUT_BUT_HALF(CAST_ENTRIES) FOR_EACH_SOURCE(CAST_ENTRY, f2, _Float16)
    FOR_EACH_INTEGER(CAST_TO_SUM_ENTRY) CAST_TO_SUM_ENTRY(b1, bool)
    FOR_EACH_WIDE_FLOAT(CAST_OF_SUM_ENTRY) CAST_OF_SUM_ENTRY(f2, _Float16)};

/* Complex numbers are pairs of the real ones of half their size. */
static enum scratch_number real_of(enum scratch_number number) {
    switch (number) {
    case SCRATCH_NUMBER_c8:
        return SCRATCH_NUMBER_f4;
    case SCRATCH_NUMBER_c16:
        return SCRATCH_NUMBER_f8;
    case SCRATCH_NUMBER_c32:
        return SCRATCH_NUMBER_f16;
    default:
        return number;
    }
}

static bool is_complex(enum scratch_number number) { return real_of(number) != number; }

static void take_real_parts(void *to, const void *from, size_t size, size_t count) {
    for (size_t item = 0; item < count; item++)
        memcpy((char *)to + item * size, (const char *)from + 2 * item * size, size);
}

/* A complex number is true if either part is. */
static void join_truths(bool *to, const bool *from, size_t count) {
    for (size_t item = 0; item < count; item++)
        to[item] = from[2 * item] | from[2 * item + 1];
}

static void add_imaginary_zeros(void *to, const void *from, size_t size, size_t count) {
    memset(to, 0, 2 * count * size);
    for (size_t item = 0; item < count; item++)
        memcpy((char *)to + 2 * item * size, (const char *)from + item * size, size);
}

/* Unsigned, because integers of NumPy wrap around and those of C must not. */
#define DEFINE_INTEGER_SCALE(NAME, TYPE, WRAPPING)                                                \
    static void scale_##NAME(void *values, const void *scale, const void *zero,                   \
                             bool zero_is_point, size_t count) {                                  \
        TYPE *value = values;                                                                     \
        WRAPPING factor = (WRAPPING) * (const TYPE *)scale, term = (WRAPPING) * (const TYPE *)zero; \
        if (zero_is_point)                                                                        \
            term = -(term * factor);                                                              \
        for (size_t item = 0; item < count; item++)                                               \
            value[item] = (TYPE)((WRAPPING)value[item] * factor + term);                          \
    }
#define DEFINE_FLOAT_SCALE(NAME, TYPE)                                                            \
    static void scale_##NAME(void *values, const void *scale, const void *zero,                   \
                             bool zero_is_point, size_t count) {                                  \
        TYPE *value = values;                                                                     \
        TYPE factor = *(const TYPE *)scale, term = *(const TYPE *)zero;                           \
        if (zero_is_point) {                                                                      \
            for (size_t item = 0; item < count; item++)                                           \
                value[item] = (value[item] - term) * factor;                                      \
        } else {                                                                                  \
            for (size_t item = 0; item < count; item++)                                           \
                value[item] = value[item] * factor + term;                                        \
        }                                                                                         \
    }
#define DEFINE_SHORT_INTEGER_SCALE(NAME, TYPE) DEFINE_INTEGER_SCALE(NAME, TYPE, uint64_t)
FOR_EACH_INTEGER(DEFINE_SHORT_INTEGER_SCALE)
DEFINE_INTEGER_SCALE(i16, __int128, unsigned __int128)
FOR_EACH_WIDE_FLOAT(DEFINE_FLOAT_SCALE)

typedef void (*scale_function)(void *values, const void *scale, const void *zero, bool zero_is_point,
                               size_t count);
#define SCALE_ENTRY(NAME, TYPE) [SCRATCH_NUMBER_##NAME] = scale_##NAME,
static const scale_function scales[SCRATCH_NUMBER_COUNT] = {
    FOR_EACH_INTEGER(SCALE_ENTRY) SCALE_ENTRY(i16, __int128) FOR_EACH_WIDE_FLOAT(SCALE_ENTRY)};

/* Items after each other that share a scale and a zero. */
struct run {
    const char *scale;
    const char *zero;
    size_t count;
};

/* The one that begins with an item; its length is at most `most`. */
static struct run run_from(const struct scratch_conversion *conversion, uint64_t item, size_t most) {
    size_t size = scratch_number_size(conversion->through);
    const char *scales_begin = (const char *)(conversion + 1);
    const char *zeros_begin = scales_begin + conversion->scale_count * size;
    uint64_t block = item / conversion->block_items;
    uint64_t left_in_block = conversion->block_items - item % conversion->block_items;
    if (block >= conversion->scale_count)
        block = conversion->scale_count - 1;
    return (struct run){
        .scale = scales_begin + block * size,
        .zero = zeros_begin + block * size,
        .count = left_in_block < most ? (size_t)left_in_block : most,
    };
}

static void scale_items(const struct scratch_conversion *conversion, char *values, size_t count,
                        uint64_t first) {
    size_t size = scratch_number_size(conversion->through);
    struct run run;
    for (size_t done = 0; done < count; done += run.count) {
        run = run_from(conversion, first + done, count - done);
        scales[conversion->through](values + done * size, run.scale, run.zero,
                                    conversion->zero_is_point, run.count);
    }
}

/* Where there is no value; compared as the source's numbers are, so that -0 is 0. */
#define DEFINE_FIND_BLANKS(SOURCE, STORED, LOAD, HALF, OUTPUT, TYPE)                              \
    static void find_blanks_##SOURCE(uint8_t *restrict is_blank, const void *restrict source,     \
                                     const void *blank, size_t count) {                           \
        const STORED *from = source;                                                              \
        STORED looked_for = *(const STORED *)blank;                                               \
        for (size_t item = 0; item < count; item++)                                               \
            is_blank[item] = LOAD(from[item]) == LOAD(looked_for);                                \
    }
FOR_EACH_SOURCE(DEFINE_FIND_BLANKS, , )

typedef void (*find_blanks_function)(uint8_t *restrict is_blank, const void *restrict source,
                                     const void *blank, size_t count);
#define FIND_BLANKS_ENTRY(SOURCE, STORED, LOAD, HALF, OUTPUT, TYPE)                               \
    [SCRATCH_NUMBER_##SOURCE] = find_blanks_##SOURCE,
static const find_blanks_function find_blanks[SCRATCH_NUMBER_COUNT] = {
    FOR_EACH_SOURCE(FIND_BLANKS_ENTRY, , )};

#define DEFINE_BLANK(NAME, TYPE)                                                                  \
    static void blank_##NAME(void *restrict values, const uint8_t *restrict is_blank, size_t count) { \
        TYPE *value = values;                                                                     \
        for (size_t item = 0; item < count; item++)                                               \
            value[item] = is_blank[item] ? (TYPE)__builtin_nanf("") : value[item];                \
    }
FOR_EACH_WIDE_FLOAT(DEFINE_BLANK)
DEFINE_BLANK(f2, _Float16)

typedef void (*blank_function)(void *restrict values, const uint8_t *restrict is_blank, size_t count);
#define BLANK_ENTRY(NAME, TYPE) [SCRATCH_NUMBER_##NAME] = blank_##NAME,
static const blank_function blanks[SCRATCH_NUMBER_COUNT] = {
    FOR_EACH_WIDE_FLOAT(BLANK_ENTRY) BLANK_ENTRY(f2, _Float16)};

struct tile {
    _Alignas(32) char ordered[TILE_BYTES]; /* the source in this machine's byte order */
    _Alignas(32) char widened[TILE_BYTES];
    _Alignas(32) char real[TILE_BYTES];
    _Alignas(32) char values[TILE_BYTES]; /* in the type in which they are scaled */
    _Alignas(32) uint8_t is_blank[TILE_BYTES];
};

/* Numbers of an ordinary type in this machine's order, parts of complex ones after each other. */
struct numbers {
    enum scratch_number type;
    const char *items;
    size_t count;
};

static struct numbers ordinary(const struct scratch_conversion *conversion, struct tile *tile,
                               const char *source, size_t count) {
    struct numbers numbers = {real_of(conversion->source), source, count};
    if (is_complex(conversion->source))
        numbers.count = 2 * count;
    if (conversion->source_is_swapped) {
        swap_items(tile->ordered, source, scratch_number_size(numbers.type), numbers.count);
        numbers.items = tile->ordered;
    }
    if (widens[numbers.type]) {
        widens[numbers.type]((float *)tile->widened, numbers.items, count);
        numbers.type = SCRATCH_NUMBER_f4;
        numbers.items = tile->widened;
    }
    return numbers;
}

static struct numbers real_parts(struct tile *tile, struct numbers complex) {
    size_t count = complex.count / 2;
    take_real_parts(tile->real, complex.items, scratch_number_size(complex.type), count);
    return (struct numbers){complex.type, tile->real, count};
}

static void cast_numbers(enum scratch_number type, void *to, struct numbers from) {
    size_t size = scratch_number_size(type);
    if (type == SCRATCH_NUMBER_f16) /* of its 16 bytes 10 are a long double */
        memset(to, 0, from.count * size);
    casts[type][from.type](to, from.items, from.count);
}

/* Scaled in a type of their own if need be, so that only the cast to the output's rounds. */
static void convert_scaled(const struct scratch_conversion *conversion, struct tile *tile,
                           char *output, struct numbers numbers, uint64_t first) {
    bool is_output = conversion->through == conversion->output;
    char *values = is_output ? output : tile->values;
    cast_numbers(conversion->through, values, numbers);
    scale_items(conversion, values, numbers.count, first);
    if (!is_output)
        cast_numbers(conversion->output, output,
                     (struct numbers){conversion->through, values, numbers.count});
}

static void convert_plainly(const struct scratch_conversion *conversion, struct tile *tile,
                            char *output, struct numbers numbers, size_t count) {
    enum scratch_number output_real = real_of(conversion->output);
    bool from_complex = is_complex(conversion->source), to_complex = is_complex(conversion->output);
    bool joins_truths = from_complex && output_real == SCRATCH_NUMBER_b1;
    bool adds_zeros = to_complex && !from_complex;
    cast_numbers(output_real, adds_zeros || joins_truths ? tile->real : output, numbers);
    if (joins_truths)
        join_truths((bool *)output, (const bool *)tile->real, count);
    if (adds_zeros)
        add_imaginary_zeros(output, tile->real, scratch_number_size(output_real), count);
}

static void convert_tile(const struct scratch_conversion *conversion, struct tile *tile, char *output,
                         const char *source, size_t count, uint64_t first) {
    struct numbers numbers = ordinary(conversion, tile, source, count);
    if (conversion->has_blank)
        find_blanks[numbers.type](tile->is_blank, numbers.items, conversion->blank, count);
    if (is_complex(conversion->source) && !is_complex(conversion->output) &&
        conversion->output != SCRATCH_NUMBER_b1)
        numbers = real_parts(tile, numbers);
    if (conversion->scale_count)
        convert_scaled(conversion, tile, output, numbers, first);
    else
        convert_plainly(conversion, tile, output, numbers, count);
    if (conversion->has_blank)
        blanks[conversion->output](output, tile->is_blank, count);
    if (conversion->output_is_swapped) {
        enum scratch_number real = real_of(conversion->output);
        size_t parts = is_complex(conversion->output) ? 2 * count : count;
        swap_items(output, output, scratch_number_size(real), parts);
    }
}

/* As many as fit in a tile in whatever type they are on the way. */
static size_t items_of_tile(const struct scratch_conversion *conversion) {
    size_t largest = scratch_number_size(conversion->source);
    size_t output_size = scratch_number_size(conversion->output);
    size_t through_size = conversion->scale_count ? scratch_number_size(conversion->through) : 0;
    if (output_size > largest)
        largest = output_size;
    if (through_size > largest)
        largest = through_size;
    if (widens[conversion->source] && sizeof(float) > largest)
        largest = sizeof(float);
    return TILE_BYTES / largest;
}

static int32_t convert(void *output, const void *source, int64_t items, int64_t first,
                       void *user_data) {
    const struct scratch_conversion *conversion = user_data;
    size_t source_size = scratch_number_size(conversion->source);
    size_t output_size = scratch_number_size(conversion->output);
    size_t tile_items = items_of_tile(conversion);
    struct tile tile;
    for (int64_t done = 0; done < items; done += (int64_t)tile_items) {
        int64_t left = items - done;
        size_t count = left < (int64_t)tile_items ? (size_t)left : tile_items;
        convert_tile(conversion, &tile, (char *)output + (size_t)done * output_size,
                     (const char *)source + (size_t)done * source_size, count,
                     (uint64_t)(first + done));
    }
    return 0;
}

scratch_decode_function SCRATCH_CONVERT_VARIANT(void) { return convert; }
