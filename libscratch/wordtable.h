/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fixups as a table of aligned 8-byte words: what relocation is, once symbols have been looked up.
 *
 * The table is used in two ways. At page-in it is applied to a page that nobody sees yet; lazily it
 * is applied to live scratch memory, word by word, wherever a word still holds what the file holds.
 */
#ifndef SCRATCH_WORDTABLE_H
#define SCRATCH_WORDTABLE_H

#include <stddef.h>
#include <stdint.h>

enum scratch_word_rule {
    SCRATCH_WORD_SET, /* the operand replaces the word */
    SCRATCH_WORD_ADD, /* the operand is added to what the file holds, modulo 2**64 */
};

struct scratch_word_table {
    enum scratch_word_rule rule;
    size_t count;
    const uint64_t *offsets;  /* ascending multiples of 8, relative to the mapping */
    const uint64_t *operands; /* one for each offset */
};

/* Applies what falls into [offset, offset + length) to `bytes`, which holds just that range. */
void scratch_word_table_apply(const struct scratch_word_table *table, unsigned char *bytes,
                              uint64_t offset, size_t length);

/*
 * Makes fixups in live memory: each word that still equals `file_words[i]` gets `values[i]`, by one
 * atomic store. Returns how many were made. Any thread computes the same values, so that no order
 * or exclusion is needed (C4).
 */
size_t scratch_words_heal(unsigned char *memory, const uint64_t *offsets, const uint64_t *file_words,
                          const uint64_t *values, size_t count);

#endif
