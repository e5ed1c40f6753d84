/* SPDX-License-Identifier: Apache-2.0 */
#include "words.h"

#include <stdbool.h>
#include <stdint.h>

#include "scratch.h"

void native_release_word_buffers(struct word_buffers *buffers) {
    PyBuffer_Release(&buffers->offsets);
    PyBuffer_Release(&buffers->operands);
}

static int check_offsets(const uint64_t *offsets, size_t count, size_t length, bool ascending) {
    for (size_t index = 0; index < count; index++) {
        bool in_order = !ascending || index == 0 || offsets[index - 1] < offsets[index];
        if (offsets[index] % sizeof(uint64_t) || length < sizeof(uint64_t) ||
            offsets[index] > length - sizeof(uint64_t) || !in_order) {
            PyErr_Format(PyExc_ValueError,
                         "fixup %zu at offset %llu: offsets are multiples of 8 inside the "
                         "mapping%s",
                         index, (unsigned long long)offsets[index],
                         ascending ? ", in ascending order" : "");
            return -1;
        }
    }
    return 0;
}

int native_get_word_buffers(PyObject *offsets, PyObject *operands, size_t length,
                            struct word_buffers *ret) {
    if (PyObject_GetBuffer(offsets, &ret->offsets, PyBUF_SIMPLE))
        return -1;
    if (PyObject_GetBuffer(operands, &ret->operands, PyBUF_SIMPLE)) {
        PyBuffer_Release(&ret->offsets);
        return -1;
    }
    if (ret->offsets.len != ret->operands.len || ret->offsets.len % sizeof(uint64_t)) {
        PyErr_SetString(PyExc_ValueError, "offsets and values must be as many, 8 bytes each");
    } else if (!check_offsets(ret->offsets.buf, (size_t)ret->offsets.len / sizeof(uint64_t), length,
                              true)) {
        return 0;
    }
    native_release_word_buffers(ret);
    return -1;
}

static int get_words(PyObject *object, Py_buffer *ret, Py_ssize_t bytes) {
    if (PyObject_GetBuffer(object, ret, PyBUF_SIMPLE))
        return -1;
    if (bytes < 0 ? ret->len % (Py_ssize_t)sizeof(uint64_t) == 0 : ret->len == bytes)
        return 0;
    PyErr_SetString(PyExc_ValueError, "offsets, file words and values must be as many, 8 bytes each");
    PyBuffer_Release(ret);
    return -1;
}

static PyObject *native_heal_words(PyObject *module, PyObject *arguments) {
    (void)module;
    PyObject *memory_object, *offsets_object, *file_words_object, *values_object;
    Py_buffer memory, offsets, file_words, values;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(arguments, "OOOO:heal_words", &memory_object, &offsets_object,
                          &file_words_object, &values_object))
        return NULL;
    if (PyObject_GetBuffer(memory_object, &memory, PyBUF_WRITABLE))
        return NULL;
    if (get_words(offsets_object, &offsets, -1))
        goto release_memory;
    if (get_words(file_words_object, &file_words, offsets.len))
        goto release_offsets;
    if (get_words(values_object, &values, offsets.len))
        goto release_file_words;
    size_t count = (size_t)offsets.len / sizeof(uint64_t);
    if (!check_offsets(offsets.buf, count, (size_t)memory.len, false)) {
        size_t made;
        Py_BEGIN_ALLOW_THREADS
        made = scratch_words_heal(memory.buf, offsets.buf, file_words.buf, values.buf, count);
        Py_END_ALLOW_THREADS
        result = PyLong_FromSize_t(made);
    }
    PyBuffer_Release(&values);
release_file_words:
    PyBuffer_Release(&file_words);
release_offsets:
    PyBuffer_Release(&offsets);
release_memory:
    PyBuffer_Release(&memory);
    return result;
}

PyMethodDef native_word_functions[] = {
    {"heal_words", native_heal_words, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
