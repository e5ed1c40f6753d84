/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the bridge add to its module; each file is one of them. */
#ifndef MAPSCRATCH_NATIVE_H
#define MAPSCRATCH_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>

/* Functions, one table a file. */
extern PyMethodDef native_board_functions[];
extern PyMethodDef native_conversion_functions[];
extern PyMethodDef native_exclusive_functions[];
extern PyMethodDef native_plain_array_functions[];
extern PyMethodDef native_process_functions[];
extern PyMethodDef native_purgeable_functions[];
extern PyMethodDef native_word_functions[];

/* Types: BoardEntry, Exclusive, Purgeable…, PinnedValue, WordMap. They stay as long as the process. */
int native_add_board(PyObject *module);
int native_add_exclusive(PyObject *module);
int native_add_purgeable(PyObject *module);
int native_add_word_map(PyObject *module);

static inline PyObject *native_raise_errno(int error) {
    errno = error;
    return PyErr_SetFromErrno(PyExc_OSError);
}

/* The module has it under the last part of its name. NULL with an exception: there is no memory. */
static inline PyTypeObject *native_add_type(PyObject *module, PyType_Spec *spec) {
    PyTypeObject *type = (PyTypeObject *)PyType_FromSpec(spec);
    if (type && PyModule_AddType(module, type))
        Py_CLEAR(type);
    return type;
}

#endif
