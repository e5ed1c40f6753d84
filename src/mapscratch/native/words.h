/* SPDX-License-Identifier: Apache-2.0 */
/* Words of memory, and what is to be stored in them, as Python gives them. */
#ifndef MAPSCRATCH_NATIVE_WORDS_H
#define MAPSCRATCH_NATIVE_WORDS_H

#include "native.h"

/* Two buffers of words, one operand for each offset, checked against the mapping's length. */
struct word_buffers {
    Py_buffer offsets;
    Py_buffer operands;
};

int native_get_word_buffers(PyObject *offsets, PyObject *operands, size_t length,
                            struct word_buffers *ret);
void native_release_word_buffers(struct word_buffers *buffers);

#endif
