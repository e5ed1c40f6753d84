/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one bridge between Python and libscratch, against the stable ABI of Python 3.11. No policy: that
 * is in Python, above, or in libscratch, below.
 *
 * The interpreter's lock is never waited for while a lock of libscratch is held, because a fork
 * takes the latter with the former in hand.
 */
#include "native.h"
#include "scratch.h"
#include "word.h"

static const struct {
    const char *name;
    int value;
} constants[] = {
    {"ENGINE_LAZYFREE", SCRATCH_ENGINE_LAZYFREE},
    {"ENGINE_DONTNEED", SCRATCH_ENGINE_DONTNEED},
    {"ENGINE_KERNEL", SCRATCH_ENGINE_KERNEL},
    {"STAGING_BYTES", SCRATCH_STAGING_BYTES},
    {"HELPER_KEY_BYTES", SCRATCH_HELPER_KEY_BYTES},
    {"RULE_SET", SCRATCH_WORD_SET},
    {"RULE_ADD", SCRATCH_WORD_ADD},
    {"PRESSURE_CGROUP1", SCRATCH_PRESSURE_CGROUP1},
    {"PRESSURE_CGROUP2", SCRATCH_PRESSURE_CGROUP2},
    {"PRESSURE_STALL", SCRATCH_PRESSURE_STALL},
};

static PyMethodDef *const functions[] = {
    native_board_functions,       native_conversion_functions, native_exclusive_functions,
    native_plain_array_functions, native_process_functions,    native_purgeable_functions,
    native_word_functions,
};

static struct PyModuleDef native_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "mapscratch._native",
    .m_doc = "The bridge to libscratch; see _native.pyi.",
    .m_size = -1,
};

static int add_constants(PyObject *module) {
    for (size_t index = 0; index < sizeof constants / sizeof constants[0]; index++)
        if (PyModule_AddIntConstant(module, constants[index].name, constants[index].value))
            return -1;
    if (PyModule_AddIntConstant(module, "REARM_WINDOW_NS", (long)scratch_settings.rearm_window_ns))
        return -1;
    return PyModule_AddStringConstant(module, "STALL_TRIGGERS", SCRATCH_STALL_TRIGGERS);
}

static int add_functions(PyObject *module) {
    for (size_t index = 0; index < sizeof functions / sizeof functions[0]; index++)
        if (PyModule_AddFunctions(module, functions[index]))
            return -1;
    return 0;
}

PyMODINIT_FUNC PyInit__native(void);

PyMODINIT_FUNC PyInit__native(void) {
    PyObject *module = PyModule_Create(&native_module);
    if (!module)
        return NULL;
    if (add_functions(module) || add_constants(module) || native_add_word_map(module) ||
        native_add_purgeable(module) || native_add_board(module) || native_add_exclusive(module))
        Py_CLEAR(module);
    return module;
}
