/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MAPSCRATCH_NATIVE_EXCLUSIVE_H
#define MAPSCRATCH_NATIVE_EXCLUSIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* Adds Exclusive to the module. */
int native_add_exclusive(PyObject *module);

/* How many forks lie between the first process that loaded this module and this one. */
PyObject *native_forks(PyObject *module, PyObject *nothing);

#endif
