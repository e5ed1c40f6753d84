/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one bridge between Python and libscratch, against the stable ABI of Python 3.11.
 *
 * It holds `WordMap`, a subclass of mmap.mmap with the word operations and the private hooks that the
 * engines call, and a few functions. No policy: that is in Python, above, or in libscratch, below.
 *
 * The interpreter's lock is never waited for while a lock of libscratch is held, because a fork
 * takes the latter with the former in hand.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "_native_board.h"
#include "_native_exclusive.h"
#include "_native_purgeable.h"
#include "convert.h"
#include "scratch.h"
#include "word.h"

static PyTypeObject *mmap_type;
static PyObject *mmap_close;
static Py_ssize_t words_offset; /* where our part of an instance begins, behind mmap's */

struct words {
    unsigned char *address; /* NULL before attach and after close */
    size_t length;
    bool is_writable;
    struct scratch_range *range;
};

static struct words *words_of(PyObject *self) {
    return (struct words *)((char *)self + words_offset);
}

static PyObject *raise_errno(int error) {
    errno = error;
    return PyErr_SetFromErrno(PyExc_OSError);
}

/* Words */

/* Why there is no word at an offset. */
static void *refuse_word(const struct words *words, Py_ssize_t offset) {
    if (!words->address)
        PyErr_SetString(PyExc_ValueError, "the scratch mapping is closed");
    else if (offset < 0 || (size_t)offset > words->length - sizeof(uint64_t) ||
             words->length < sizeof(uint64_t))
        PyErr_Format(PyExc_IndexError,
                     "offset %zd is out of range: a word of 8 bytes must lie in the mapping's %zu",
                     offset, words->length);
    else
        PyErr_Format(PyExc_ValueError,
                     "offset %zd is misaligned: only a word at a multiple of 8 is indivisible",
                     offset);
    return NULL;
}

/* A word costs a few nanoseconds, so that each call into the interpreter counts here. */
static void *word_at(const struct words *words, PyObject *offset_object) {
    Py_ssize_t offset = PyLong_AsSsize_t(offset_object);
    if (offset == -1 && PyErr_Occurred()) { /* not an int, or too large for one of these */
        PyErr_Clear();
        offset = PyNumber_AsSsize_t(offset_object, PyExc_IndexError);
        if (offset == -1 && PyErr_Occurred())
            return NULL;
    }
    bool is_word = words->address && words->length >= sizeof(uint64_t) &&
                   (size_t)offset <= words->length - sizeof(uint64_t) &&
                   offset % sizeof(uint64_t) == 0;
    return is_word ? words->address + offset : refuse_word(words, offset);
}

static int word_value(PyObject *object, uint64_t *ret) {
    PyObject *index = PyNumber_Index(object);
    if (!index)
        return -1;
    *ret = PyLong_AsUnsignedLongLong(index);
    Py_DECREF(index);
    if (*ret == UINT64_MAX && PyErr_Occurred()) {
        PyErr_SetString(PyExc_OverflowError, "a word is an int in range(2**64)");
        return -1;
    }
    return 0;
}

static void *writable_word_at(const struct words *words, PyObject *offset_object) {
    void *word = word_at(words, offset_object);
    if (word && !words->is_writable) {
        PyErr_SetString(PyExc_TypeError, "the scratch mapping is read-only (access=ACCESS_READ)");
        return NULL;
    }
    return word;
}

static PyObject *word_map_load(PyObject *self, PyObject *offset) {
    void *word = word_at(words_of(self), offset);
    return word ? PyLong_FromUnsignedLongLong(scratch_word_load(word)) : NULL;
}

static int check_argument_count(const char *name, Py_ssize_t wanted, Py_ssize_t given) {
    if (given == wanted)
        return 0;
    PyErr_Format(PyExc_TypeError, "%s() takes exactly %zd arguments (%zd given)", name, wanted,
                 given);
    return -1;
}

static PyObject *word_map_store(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    uint64_t value;
    if (check_argument_count("store", 2, count))
        return NULL;
    /* Values first: an __index__ of Python may close the mapping, and then there is no address. */
    if (word_value(arguments[1], &value))
        return NULL;
    void *word = writable_word_at(words_of(self), arguments[0]);
    if (!word)
        return NULL;
    scratch_word_store(word, value);
    Py_RETURN_NONE;
}

static PyObject *word_map_compare_exchange(PyObject *self, PyObject *const *arguments,
                                           Py_ssize_t count) {
    uint64_t expected, desired;
    if (check_argument_count("compare_exchange", 3, count))
        return NULL;
    if (word_value(arguments[1], &expected) || word_value(arguments[2], &desired))
        return NULL;
    void *word = writable_word_at(words_of(self), arguments[0]);
    if (!word)
        return NULL;
    return PyLong_FromUnsignedLongLong(scratch_word_compare_exchange(word, expected, desired));
}

/* The engines' hooks */

/* Two buffers of words, one operand for each offset, checked against the mapping's length. */
struct word_buffers {
    Py_buffer offsets;
    Py_buffer operands;
};

static void release_word_buffers(struct word_buffers *buffers) {
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

static int get_word_buffers(PyObject *offsets, PyObject *operands, size_t length,
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
    release_word_buffers(ret);
    return -1;
}

/* Gives the mapping's memory, `memory`, to the engine that the description is for. */
static PyObject *take_over(PyObject *self, enum scratch_engine engine, const Py_buffer *memory,
                           struct scratch_description *description) {
    struct words *words = words_of(self);
    struct scratch_range *range = NULL;
    int error;
    description->address = memory->buf;
    description->length = (size_t)memory->len;
    Py_BEGIN_ALLOW_THREADS
    error = scratch_range_create(engine, description, &range);
    Py_END_ALLOW_THREADS
    words->address = memory->buf;
    words->length = (size_t)memory->len;
    words->is_writable = description->protection & PROT_WRITE;
    words->range = range;
    if (error)
        return raise_errno(error);
    Py_RETURN_NONE;
}

/* The memory of a mapping that has no engine yet. */
static int get_free_memory(PyObject *self, Py_buffer *ret) {
    if (words_of(self)->range) {
        PyErr_SetString(PyExc_RuntimeError, "the mapping has an engine already");
        return -1;
    }
    return PyObject_GetBuffer(self, ret, PyBUF_SIMPLE);
}

static PyObject *word_map_attach(PyObject *self, PyObject *arguments) {
    int engine, protection, source_fd, rule;
    long long source_offset;
    const char *name;
    PyObject *offsets, *operands;
    Py_ssize_t lock_length;
    if (!PyArg_ParseTuple(arguments, "iiiLsiOOn:_attach", &engine, &protection, &source_fd,
                          &source_offset, &name, &rule, &offsets, &operands, &lock_length))
        return NULL;
    Py_buffer memory;
    if (get_free_memory(self, &memory))
        return NULL;
    struct word_buffers buffers;
    bool has_fixup = offsets != Py_None;
    if (has_fixup && get_word_buffers(offsets, operands, (size_t)memory.len, &buffers)) {
        PyBuffer_Release(&memory);
        return NULL;
    }
    struct scratch_word_table table = {0};
    if (has_fixup) {
        table.rule = (enum scratch_word_rule)rule;
        table.count = (size_t)buffers.offsets.len / sizeof(uint64_t);
        table.offsets = buffers.offsets.buf;
        table.operands = buffers.operands.buf;
    }
    struct scratch_description description = {
        .protection = protection,
        .source_fd = source_fd,
        .source_offset = (off_t)source_offset,
        .name = name,
        .fixup = has_fixup ? &table : NULL,
        .lock_length = (size_t)lock_length,
    };
    PyObject *result = take_over(self, (enum scratch_engine)engine, &memory, &description);
    if (has_fixup)
        release_word_buffers(&buffers);
    PyBuffer_Release(&memory);
    return result;
}

static PyObject *word_map_attach_decoded(PyObject *self, PyObject *arguments, PyObject *keywords) {
    static char *names[] = {"protection",   "source_fd",  "source_offset",      "source_length",
                            "name",         "function",   "user_data",          "helper",
                            "unit_pages",   "unit_items", "unit_source_length", "items",
                            "block_pages",  "block_is_fixed", "huge_pages", "helper_key", "helper_owner", NULL};
    int source_fd, protection, block_is_fixed, huge_pages, helper_owner;
    long long source_offset;
    unsigned long long source_length, function, unit_items, unit_source_length, items;
    const char *name, *helper;
    Py_buffer user_data, memory, helper_key;
    Py_ssize_t unit_pages, block_pages;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "$iiLKsKy*znKKKnppy*i:_attach_decoded", names,
                                     &protection, &source_fd, &source_offset, &source_length, &name,
                                     &function, &user_data, &helper, &unit_pages, &unit_items,
                                     &unit_source_length, &items, &block_pages, &block_is_fixed,
                                     &huge_pages, &helper_key, &helper_owner))
        return NULL;
    PyObject *result = NULL;
    bool has_key = !helper || helper_key.len == SCRATCH_HELPER_KEY_BYTES;
    if (!has_key)
        PyErr_Format(PyExc_ValueError, "a key has %d bytes", SCRATCH_HELPER_KEY_BYTES);
    else if (!get_free_memory(self, &memory)) {
        struct scratch_decoding decoding = {
            .decode = (scratch_decode_function)(uintptr_t)function,
            .user_data = user_data.buf,
            .user_data_length = (size_t)user_data.len,
            .helper = helper,
            .helper_key = helper_key.buf,
            .helper_owner = helper_owner,
            .unit_pages = (size_t)unit_pages,
            .unit_items = unit_items,
            .unit_source_length = unit_source_length,
            .items = items,
            .source_length = source_length,
            .block_pages = (size_t)block_pages,
            .block_is_fixed = block_is_fixed,
            .huge_pages = huge_pages,
        };
        struct scratch_description description = {
            .protection = protection,
            .source_fd = source_fd,
            .source_offset = (off_t)source_offset,
            .name = name,
            .decoding = &decoding,
        };
        result = take_over(self, SCRATCH_ENGINE_LAZYFREE, &memory, &description);
        PyBuffer_Release(&memory);
    }
    PyBuffer_Release(&helper_key);
    PyBuffer_Release(&user_data);
    return result;
}

/*
 * A hook's view of its mapping. It exports the buffer, so that nobody can close the mapping while a
 * call without the interpreter's lock is under way.
 */
static struct scratch_range *hold(PyObject *self, Py_buffer *memory) {
    struct scratch_range *range = words_of(self)->range;
    if (!range) {
        PyErr_SetString(PyExc_ValueError, "the scratch mapping is closed");
        return NULL;
    }
    return PyObject_GetBuffer(self, memory, PyBUF_SIMPLE) ? NULL : range;
}

/* What an engine can do to whole pages; some answer with a number. */
typedef int (*page_operation)(struct scratch_range *, size_t offset, size_t length, uint64_t *ret);

static int reclaim_pages(struct scratch_range *range, size_t offset, size_t length, uint64_t *ret) {
    *ret = 0;
    return scratch_range_reclaim(range, offset, length);
}

static int rearm_pages(struct scratch_range *range, size_t offset, size_t length, uint64_t *ret) {
    *ret = 0;
    return scratch_range_rearm(range, offset, length);
}

/* Arguments: offset and length. */
static PyObject *operate(PyObject *self, PyObject *arguments, page_operation operation) {
    Py_ssize_t offset, length;
    Py_buffer memory;
    if (!PyArg_ParseTuple(arguments, "nn", &offset, &length))
        return NULL;
    struct scratch_range *range = hold(self, &memory);
    if (!range)
        return NULL;
    uint64_t answer = 0;
    int error;
    Py_BEGIN_ALLOW_THREADS
    error = operation(range, (size_t)offset, (size_t)length, &answer);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&memory);
    return error ? raise_errno(error) : PyLong_FromUnsignedLongLong(answer);
}

static PyObject *word_map_drop(PyObject *self, PyObject *arguments) {
    return operate(self, arguments, scratch_range_drop);
}

static PyObject *word_map_reclaim(PyObject *self, PyObject *arguments) {
    return operate(self, arguments, reclaim_pages);
}

static PyObject *word_map_rearm(PyObject *self, PyObject *arguments) {
    return operate(self, arguments, rearm_pages);
}

static PyObject *word_map_pin(PyObject *self, PyObject *arguments) {
    return operate(self, arguments, scratch_range_pin);
}

static PyObject *word_map_unpin(PyObject *self, PyObject *arguments) {
    Py_ssize_t offset, length;
    unsigned long long generation;
    Py_buffer memory;
    if (!PyArg_ParseTuple(arguments, "nnK:_unpin", &offset, &length, &generation))
        return NULL;
    if (!words_of(self)->range)
        Py_RETURN_NONE; /* closed: its pins went with it */
    struct scratch_range *range = hold(self, &memory);
    if (!range)
        return NULL;
    int error;
    Py_BEGIN_ALLOW_THREADS
    error = scratch_range_unpin(range, (size_t)offset, (size_t)length, generation);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&memory);
    if (error)
        return raise_errno(error);
    Py_RETURN_NONE;
}

/* Pages by number, as 8-byte integers. */
static struct scratch_range *hold_with_pages(PyObject *self, PyObject *pages, Py_buffer *ret_memory,
                                             Py_buffer *ret_pages) {
    struct scratch_range *range = hold(self, ret_memory);
    if (range && PyObject_GetBuffer(pages, ret_pages, PyBUF_SIMPLE)) {
        PyBuffer_Release(ret_memory);
        return NULL;
    }
    return range;
}

static PyObject *word_map_residence(PyObject *self, PyObject *pages_object) {
    Py_buffer memory, pages;
    struct scratch_range *range = hold_with_pages(self, pages_object, &memory, &pages);
    if (!range)
        return NULL;
    size_t count = (size_t)pages.len / sizeof(uint64_t);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)count);
    int error = 0;
    if (bytes) {
        unsigned char *residence = (unsigned char *)PyBytes_AsString(bytes);
        Py_BEGIN_ALLOW_THREADS
        error = scratch_range_residence(range, pages.buf, count, residence);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&pages);
    PyBuffer_Release(&memory);
    if (error) {
        Py_DECREF(bytes);
        return raise_errno(error);
    }
    return bytes;
}

static PyObject *word_map_fetch(PyObject *self, PyObject *pages_object) {
    Py_buffer memory, pages;
    struct scratch_range *range = hold_with_pages(self, pages_object, &memory, &pages);
    if (!range)
        return NULL;
    int error;
    Py_BEGIN_ALLOW_THREADS
    error = scratch_range_fetch(range, pages.buf, (size_t)pages.len / sizeof(uint64_t));
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&pages);
    PyBuffer_Release(&memory);
    if (error)
        return raise_errno(error);
    Py_RETURN_NONE;
}

static PyObject *word_map_range_counts(PyObject *self, PyObject *unused) {
    (void)unused;
    Py_buffer memory;
    struct scratch_range *range = hold(self, &memory);
    if (!range)
        return NULL;
    struct scratch_counts counts;
    Py_BEGIN_ALLOW_THREADS
    scratch_range_counts(range, &counts);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&memory);
    return Py_BuildValue(
        "{s:K,s:K,s:K,s:K,s:K,s:K}", "filled", (unsigned long long)counts.filled, "rebuilt",
        (unsigned long long)counts.rebuilt, "dropped", (unsigned long long)counts.dropped, "pinned",
        (unsigned long long)counts.pinned, "fixup_ns", (unsigned long long)counts.fixup_ns,
        "locked_bytes", (unsigned long long)counts.locked_bytes);
}

static PyObject *word_map_page_counts(PyObject *self, PyObject *unused) {
    (void)unused;
    Py_buffer memory;
    struct scratch_range *range = hold(self, &memory);
    if (!range)
        return NULL;
    struct scratch_page_counts counts;
    int error;
    Py_BEGIN_ALLOW_THREADS
    error = scratch_range_page_counts(range, &counts);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&memory);
    return error ? raise_errno(error)
                 : Py_BuildValue("KKK", (unsigned long long)counts.present,
                                 (unsigned long long)counts.swapped, (unsigned long long)counts.own);
}

static PyObject *word_map_address(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromVoidPtr(words_of(self)->address);
}

/* Closing: the range is forgotten in the same breath in which its memory is unmapped. */

static PyObject *word_map_close(PyObject *self, PyObject *unused) {
    (void)unused;
    struct words *words = words_of(self);
    struct scratch_range *range = words->range;
    unsigned char *address = words->address;
    if (range && scratch_range_is_sealed(range)) {
        errno = EPERM; /* mmap's own close would not tell */
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (range)
        scratch_range_close_begin(range);
    words->range = NULL;
    words->address = NULL;
    PyObject *result = PyObject_CallFunctionObjArgs(mmap_close, self, NULL);
    if (!result) { /* BufferError: somebody holds a view, and nothing changes */
        words->range = range;
        words->address = address;
        if (range)
            scratch_range_close_abort(range);
        return NULL;
    }
    if (range) {
        Py_BEGIN_ALLOW_THREADS
        scratch_range_forget(range);
        Py_END_ALLOW_THREADS
    }
    return result;
}

static PyObject *word_map_exit(PyObject *self, PyObject *unused) {
    return word_map_close(self, unused);
}

static void word_map_finalize(PyObject *self) {
    struct words *words = words_of(self);
    struct scratch_range *range = words->range;
    words->range = NULL;
    words->address = NULL;
    if (!range)
        return;
    scratch_range_close_begin(range);
    Py_BEGIN_ALLOW_THREADS
    scratch_range_forget(range);
    Py_END_ALLOW_THREADS
}

static PyMethodDef word_map_methods[] = {
    {"load", word_map_load, METH_O,
     "load($self, offset, /)\n--\n\nThe aligned unsigned 8-byte word at `offset`, read "
     "indivisibly."},
    {"store", (PyCFunction)(void (*)(void))word_map_store, METH_FASTCALL,
     "store($self, offset, value, /)\n--\n\nStores an aligned unsigned 8-byte word indivisibly."},
    {"compare_exchange", (PyCFunction)(void (*)(void))word_map_compare_exchange, METH_FASTCALL,
     "compare_exchange($self, offset, expected, desired, /)\n--\n\nStores `desired` if the word is "
     "`expected`; returns the word that was found."},
    {"_attach", word_map_attach, METH_VARARGS, NULL},
    {"_attach_decoded", (PyCFunction)(void (*)(void))word_map_attach_decoded,
     METH_VARARGS | METH_KEYWORDS, NULL},
    {"_drop", word_map_drop, METH_VARARGS, NULL},
    {"_reclaim", word_map_reclaim, METH_VARARGS, NULL},
    {"_rearm", word_map_rearm, METH_VARARGS, NULL},
    {"_pin", word_map_pin, METH_VARARGS, NULL},
    {"_unpin", word_map_unpin, METH_VARARGS, NULL},
    {"_residence", word_map_residence, METH_O, NULL},
    {"_fetch", word_map_fetch, METH_O, NULL},
    {"_range_counts", word_map_range_counts, METH_NOARGS, NULL},
    {"_page_counts", word_map_page_counts, METH_NOARGS, NULL},
    {"close", word_map_close, METH_NOARGS, NULL},
    {"__exit__", word_map_exit, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef word_map_properties[] = {
    {"_address", word_map_address, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot word_map_slots[] = {
    {Py_tp_doc, "An mmap.mmap with indivisible word operations and the engines' hooks."},
    {Py_tp_methods, word_map_methods},
    {Py_tp_getset, word_map_properties},
    {Py_tp_finalize, word_map_finalize},
    {0, NULL},
};

/* Functions */

static PyObject *native_configure(PyObject *module, PyObject *arguments, PyObject *keywords) {
    (void)module;
    static char *names[] = {"fault_around_pages", "window_pages", "rearm_window_ns",
                            "poll_after_fault_ns", "readahead_bytes", "drop_percent_low",
                            "drop_percent_medium", "drop_percent_critical", NULL};
    struct scratch_settings settings;
    unsigned int around, window_pages, low, medium, critical;
    unsigned long long window, poll, readahead;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "$IIKKKIII:configure", names, &around,
                                     &window_pages, &window, &poll, &readahead, &low, &medium,
                                     &critical))
        return NULL;
    if (!around || (around & (around - 1))) {
        PyErr_SetString(PyExc_ValueError, "fault_around_pages must be a power of two");
        return NULL;
    }
    settings.fault_around_pages = around;
    settings.window_pages = window_pages;
    settings.rearm_window_ns = window;
    settings.poll_after_fault_ns = poll;
    settings.readahead_bytes = readahead;
    settings.drop_percent_low = low;
    settings.drop_percent_medium = medium;
    settings.drop_percent_critical = critical;
    scratch_configure(&settings);
    Py_RETURN_NONE;
}

static PyObject *native_userfault_status(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    struct scratch_userfault_status status;
    scratch_userfault_probe(&status);
    return Py_BuildValue("{s:i,s:O,s:O,s:O,s:i,s:i}", "error", status.error, "system_calls",
                         status.system_calls ? Py_True : Py_False, "write_protect",
                         status.write_protect ? Py_True : Py_False, "poison",
                         status.poison ? Py_True : Py_False, "remote_read_error",
                         status.remote_read_error, "descriptor_table_error",
                         status.descriptor_table_error);
}

static PyObject *native_kernel_probe(PyObject *module, PyObject *argument) {
    (void)module;
    int descriptor = PyObject_AsFileDescriptor(argument);
    return descriptor < 0 ? NULL : PyLong_FromLong(scratch_kernel_probe(descriptor));
}

static PyObject *native_watch_pressure(PyObject *module, PyObject *arguments) {
    (void)module;
    int kind;
    const char *path, *trigger;
    if (!PyArg_ParseTuple(arguments, "iss:watch_pressure", &kind, &path, &trigger))
        return NULL;
    int error;
    Py_BEGIN_ALLOW_THREADS
    error = scratch_pressure_watch((enum scratch_pressure_kind)kind, path, trigger);
    Py_END_ALLOW_THREADS
    if (error)
        return raise_errno(error);
    Py_RETURN_NONE;
}

static PyObject *native_pressure_counts(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    uint64_t events, pages;
    scratch_pressure_counts(&events, &pages);
    return Py_BuildValue("KK", (unsigned long long)events, (unsigned long long)pages);
}

static PyObject *native_announce_pressure(PyObject *module, PyObject *argument) {
    (void)module;
    long level = PyLong_AsLong(argument);
    if (level == -1 && PyErr_Occurred())
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    scratch_pressure_announce((int)level);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *native_release_all(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    uint64_t bytes;
    Py_BEGIN_ALLOW_THREADS
    bytes = scratch_release_all();
    Py_END_ALLOW_THREADS
    return PyLong_FromUnsignedLongLong(bytes);
}

static PyObject *native_count_pages(PyObject *module, PyObject *arguments) {
    (void)module;
    int pagemap, error;
    unsigned long long address, pages;
    struct scratch_page_counts counts = {0};
    if (!PyArg_ParseTuple(arguments, "iKK:count_pages", &pagemap, &address, &pages))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    error = scratch_pagemap_count(pagemap, (uintptr_t)address, (size_t)pages, &counts);
    Py_END_ALLOW_THREADS
    return error ? raise_errno(error)
                 : Py_BuildValue("KKK", (unsigned long long)counts.present,
                                 (unsigned long long)counts.swapped, (unsigned long long)counts.own);
}

static PyObject *native_pager_thread(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return PyLong_FromLong(scratch_pager_thread());
}

static PyObject *native_fork_expect(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    scratch_fork_expect();
    Py_RETURN_NONE;
}

static PyObject *native_fork_finish(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    Py_BEGIN_ALLOW_THREADS
    scratch_fork_finish();
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
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

static PyObject *native_page_states(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    PyObject *states = PyDict_New();
    for (int state = 0; states && state < SCRATCH_STATE_COUNT; state++) {
        PyObject *meaning =
            PyUnicode_FromString(scratch_state_meaning((enum scratch_page_state)state));
        if (!meaning || PyDict_SetItemString(
                            states, scratch_state_label((enum scratch_page_state)state), meaning))
            Py_CLEAR(states);
        Py_XDECREF(meaning);
    }
    return states;
}

static PyObject *native_page_transitions(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    PyObject *transitions = PyList_New(0);
    for (size_t index = 0; transitions && index < scratch_transition_count; index++) {
        const struct scratch_transition *transition = &scratch_transitions[index];
        PyObject *row = Py_BuildValue(
            "ssss", scratch_engine_label(transition->engine),
            scratch_state_label(transition->from), scratch_event_label(transition->event),
            scratch_state_label(transition->to));
        if (!row || PyList_Append(transitions, row))
            Py_CLEAR(transitions);
        Py_XDECREF(row);
    }
    return transitions;
}

/*
 * A class whose instances are laid out as those of its base, byte by byte. Classes made by a class statement
 * are not: in front of their instances is what the garbage collector needs.
 */
static PyObject *native_subclass_alike(PyObject *module, PyObject *args) {
    (void)module;
    const char *name;
    PyTypeObject *base;
    if (!PyArg_ParseTuple(args, "sO!", &name, &PyType_Type, &base))
        return NULL;
    PyType_Slot no_slots[] = {{0, NULL}};
    PyType_Spec spec = {
        .name = name,
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
        .slots = no_slots,
    };
    PyObject *bases = PyTuple_Pack(1, base);
    if (!bases)
        return NULL;
    PyObject *type = PyType_FromSpecWithBases(&spec, bases);
    Py_DECREF(bases);
    return type;
}

static int has_equal_size(PyTypeObject *one, PyTypeObject *other) {
    PyObject *a = PyObject_GetAttrString((PyObject *)one, "__basicsize__");
    PyObject *b = a ? PyObject_GetAttrString((PyObject *)other, "__basicsize__") : NULL;
    int is_equal = b ? PyObject_RichCompareBool(a, b, Py_EQ) : -1;
    Py_XDECREF(a);
    Py_XDECREF(b);
    return is_equal;
}

/*
 * What `object.__class__ = base` would do, which Python refuses where the base is made in C. Only the type
 * changes, and the reference to it that instances of classes made at run time hold.
 */
static PyObject *native_become_base(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *object;
    PyTypeObject *base;
    if (!PyArg_ParseTuple(args, "OO!", &object, &PyType_Type, &base))
        return NULL;
    PyTypeObject *type = Py_TYPE(object);
    unsigned long flags = PyType_GetFlags(type), base_flags = PyType_GetFlags(base);
    if (!(flags & Py_TPFLAGS_HEAPTYPE) || base_flags & Py_TPFLAGS_HEAPTYPE ||
        (flags | base_flags) & Py_TPFLAGS_HAVE_GC || !PyType_IsSubtype(type, base))
        Py_RETURN_FALSE;
    int is_alike = has_equal_size(type, base);
    if (is_alike < 0)
        return NULL;
    if (!is_alike)
        Py_RETURN_FALSE;
    Py_SET_TYPE(object, base);
    Py_DECREF(type);
    Py_RETURN_TRUE;
}

static PyMethodDef native_functions[] = {
    {"become_base", native_become_base, METH_VARARGS, NULL},
    {"subclass_alike", native_subclass_alike, METH_VARARGS, NULL},
    {"configure", (PyCFunction)(void (*)(void))native_configure, METH_VARARGS | METH_KEYWORDS,
     NULL},
    {"turn_off_board", native_turn_off_board, METH_NOARGS, NULL},
    {"userfault_status", native_userfault_status, METH_NOARGS, NULL},
    {"kernel_probe", native_kernel_probe, METH_O, NULL},
    {"watch_pressure", native_watch_pressure, METH_VARARGS, NULL},
    {"pressure_counts", native_pressure_counts, METH_NOARGS, NULL},
    {"announce_pressure", native_announce_pressure, METH_O, NULL},
    {"release_all", native_release_all, METH_NOARGS, NULL},
    {"count_pages", native_count_pages, METH_VARARGS, NULL},
    {"pager_thread", native_pager_thread, METH_NOARGS, NULL},
    {"fork_expect", native_fork_expect, METH_NOARGS, NULL},
    {"fork_finish", native_fork_finish, METH_NOARGS, NULL},
    {"heal_words", native_heal_words, METH_VARARGS, NULL},
    {"conversion", (PyCFunction)(void (*)(void))native_conversion, METH_VARARGS | METH_KEYWORDS, NULL},
    {"convert_function", native_convert_function, METH_NOARGS, NULL},
    {"plain_convert_function", native_plain_convert_function, METH_NOARGS, NULL},
    {"purgeable_refused", native_purgeable_refused, METH_NOARGS, NULL},
    {"forks", native_forks, METH_NOARGS, NULL},
    {"page_states", native_page_states, METH_NOARGS, NULL},
    {"page_transitions", native_page_transitions, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef native_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "mapscratch._native",
    .m_doc = "The bridge to libscratch; see _native.pyi.",
    .m_size = -1,
    .m_methods = native_functions,
};

static int find_mmap(void) {
    PyObject *module = PyImport_ImportModule("mmap");
    if (!module)
        return -1;
    mmap_type = (PyTypeObject *)PyObject_GetAttrString(module, "mmap");
    Py_DECREF(module);
    if (!mmap_type)
        return -1;
    mmap_close = PyObject_GetAttrString((PyObject *)mmap_type, "close");
    PyObject *size = PyObject_GetAttrString((PyObject *)mmap_type, "__basicsize__");
    if (!mmap_close || !size)
        return -1;
    Py_ssize_t basic_size = PyLong_AsSsize_t(size);
    Py_DECREF(size);
    const Py_ssize_t alignment = _Alignof(struct words);
    words_offset = (basic_size + alignment - 1) / alignment * alignment;
    return basic_size < 0 ? -1 : 0;
}

static PyObject *make_word_map_type(void) {
    PyType_Spec spec = {
        .name = "mapscratch._native.WordMap",
        .basicsize = (int)(words_offset + (Py_ssize_t)sizeof(struct words)),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
        .slots = word_map_slots,
    };
    PyObject *bases = PyTuple_Pack(1, mmap_type);
    if (!bases)
        return NULL;
    PyObject *type = PyType_FromSpecWithBases(&spec, bases);
    Py_DECREF(bases);
    return type;
}

PyMODINIT_FUNC PyInit__native(void);

PyMODINIT_FUNC PyInit__native(void) {
    if (find_mmap())
        return NULL;
    PyObject *module = PyModule_Create(&native_module);
    if (!module)
        return NULL;
    PyObject *type = make_word_map_type();
    if (!type || PyModule_AddObjectRef(module, "WordMap", type) || native_add_purgeable(module) ||
        native_add_board(module) || native_add_exclusive(module) ||
        PyModule_AddIntConstant(module, "ENGINE_LAZYFREE", SCRATCH_ENGINE_LAZYFREE) ||
        PyModule_AddIntConstant(module, "ENGINE_DONTNEED", SCRATCH_ENGINE_DONTNEED) ||
        PyModule_AddIntConstant(module, "ENGINE_KERNEL", SCRATCH_ENGINE_KERNEL) ||
        PyModule_AddIntConstant(module, "STAGING_BYTES", SCRATCH_STAGING_BYTES) ||
        PyModule_AddIntConstant(module, "HELPER_KEY_BYTES", SCRATCH_HELPER_KEY_BYTES) ||
        PyModule_AddIntConstant(module, "RULE_SET", SCRATCH_WORD_SET) ||
        PyModule_AddIntConstant(module, "RULE_ADD", SCRATCH_WORD_ADD) ||
        PyModule_AddIntConstant(module, "PRESSURE_CGROUP1", SCRATCH_PRESSURE_CGROUP1) ||
        PyModule_AddIntConstant(module, "PRESSURE_CGROUP2", SCRATCH_PRESSURE_CGROUP2) ||
        PyModule_AddIntConstant(module, "PRESSURE_STALL", SCRATCH_PRESSURE_STALL) ||
        PyModule_AddStringConstant(module, "STALL_TRIGGERS", SCRATCH_STALL_TRIGGERS))
        Py_CLEAR(module);
    Py_XDECREF(type);
    return module;
}
