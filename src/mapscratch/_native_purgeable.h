/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MAPSCRATCH_NATIVE_PURGEABLE_H
#define MAPSCRATCH_NATIVE_PURGEABLE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* Adds PurgeablePages and PurgeableView to the module. */
int native_add_purgeable(PyObject *module);

/* The errno value of the last release that the kernel refused, once; 0: none. */
PyObject *native_purgeable_refused(PyObject *module, PyObject *nothing);

#endif
