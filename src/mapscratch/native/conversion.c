/* SPDX-License-Identifier: Apache-2.0 */
/* The user data of converting fixups, and the functions that read it. */
#include <string.h>

#include "convert.h"
#include "native.h"

static int number_named(const char *name, enum scratch_number *ret) {
    for (int number = 0; number < SCRATCH_NUMBER_COUNT; number++) {
        if (!strcmp(name, scratch_number_name((enum scratch_number)number))) {
            *ret = (enum scratch_number)number;
            return 0;
        }
    }
    PyErr_Format(PyExc_ValueError, "no such number: %s", name);
    return -1;
}

/* The user data of `convert_function`: the conversion, and its scales and zeros. */
static PyObject *native_conversion(PyObject *module, PyObject *arguments, PyObject *keywords) {
    (void)module;
    static char *names[] = {"source", "output", "through", "source_is_swapped", "output_is_swapped",
                            "zero_is_point", "blank", "block_items", "scales", "zeros", NULL};
    const char *source, *output, *through;
    int source_is_swapped, output_is_swapped, zero_is_point;
    unsigned long long block_items;
    Py_buffer blank, scales, zeros;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "$ssspppy*Ky*y*:conversion", names, &source,
                                     &output, &through, &source_is_swapped, &output_is_swapped,
                                     &zero_is_point, &blank, &block_items, &scales, &zeros))
        return NULL;
    struct scratch_conversion conversion = {
        .source_is_swapped = source_is_swapped,
        .output_is_swapped = output_is_swapped,
        .zero_is_point = zero_is_point,
        .has_blank = blank.len > 0,
        .block_items = block_items ? block_items : 1,
    };
    PyObject *bytes = NULL;
    if ((size_t)blank.len > sizeof conversion.blank)
        PyErr_SetString(PyExc_ValueError, "a blank is larger than any number");
    else
        memcpy(conversion.blank, blank.buf, (size_t)blank.len);
    if (!PyErr_Occurred() && !number_named(source, &conversion.source) &&
        !number_named(output, &conversion.output) && !number_named(through, &conversion.through)) {
        conversion.scale_count = (uint64_t)scales.len / scratch_number_size(conversion.through);
        bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)sizeof conversion + scales.len + zeros.len);
    }
    if (bytes) {
        char *to = PyBytes_AsString(bytes);
        memcpy(to, &conversion, sizeof conversion);
        memcpy(to + sizeof conversion, scales.buf, (size_t)scales.len);
        memcpy(to + sizeof conversion + scales.len, zeros.buf, (size_t)zeros.len);
    }
    PyBuffer_Release(&blank);
    PyBuffer_Release(&scales);
    PyBuffer_Release(&zeros);
    return bytes;
}

static PyObject *native_convert_function(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return PyLong_FromVoidPtr((void *)(uintptr_t)scratch_convert_function());
}

static PyObject *native_plain_convert_function(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return PyLong_FromVoidPtr((void *)(uintptr_t)scratch_convert_plain());
}

PyMethodDef native_conversion_functions[] = {
    {"conversion", (PyCFunction)(void (*)(void))native_conversion, METH_VARARGS | METH_KEYWORDS, NULL},
    {"convert_function", native_convert_function, METH_NOARGS, NULL},
    {"plain_convert_function", native_plain_convert_function, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
