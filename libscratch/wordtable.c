/* SPDX-License-Identifier: Apache-2.0 */
#include "wordtable.h"

#include <string.h>

#include "word.h"

/* The index of the first offset that is not below `offset`. */
static size_t lower_bound(const struct scratch_word_table *table, uint64_t offset) {
    size_t low = 0;
    size_t high = table->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (table->offsets[middle] < offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void scratch_word_table_apply(const struct scratch_word_table *table, unsigned char *bytes,
                              uint64_t offset, size_t length) {
    for (size_t index = lower_bound(table, offset);
         index < table->count && table->offsets[index] - offset < length; index++) {
        unsigned char *place = bytes + (table->offsets[index] - offset);
        uint64_t word = 0;
        if (table->rule == SCRATCH_WORD_ADD)
            memcpy(&word, place, sizeof word);
        word += table->operands[index];
        memcpy(place, &word, sizeof word);
    }
}

size_t scratch_words_heal(unsigned char *memory, const uint64_t *offsets, const uint64_t *file_words,
                          const uint64_t *values, size_t count) {
    size_t made = 0;
    for (size_t index = 0; index < count; index++) {
        void *place = memory + offsets[index];
        if (values[index] != file_words[index] &&
            scratch_word_load(place) == file_words[index]) {
            scratch_word_store(place, values[index]);
            made++;
        }
    }
    return made;
}
