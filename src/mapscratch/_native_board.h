/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MAPSCRATCH_NATIVE_BOARD_H
#define MAPSCRATCH_NATIVE_BOARD_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* Adds BoardEntry to the module. */
int native_add_board(PyObject *module);
PyObject *native_turn_off_board(PyObject *module, PyObject *unused);

#endif
