/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process that makes the pages of a range whose fixup needs an interpreter. It must not be a
 * thread of the reader's, because a reader that waits for a page may hold what that thread needs.
 *
 * The pager connects to the process's abstract socket, hands it shared memory, and asks for some
 * units; the answer says that they are there, or why not. While it is awaited the pager goes on
 * serving other ranges. Everything here runs on the pager's thread, and its descriptors are in the
 * pager's own table; they go when the pager ends, and the next question connects again.
 */
#ifndef SCRATCH_HELPER_H
#define SCRATCH_HELPER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decode.h"

/* So many questions at a time: it works on one while the answer to another is taken. */
enum { SCRATCH_HELPER_QUESTIONS = 2, SCRATCH_HELPER_TEXT = 480 };

struct scratch_helper_question {
    bool is_asked;
    size_t first; /* pages that were asked for: [first, end) */
    size_t end;
    size_t awaited; /* the page somebody waits for, or SCRATCH_NO_PAGE */
    uint64_t asked_ns; /* when */
};

struct scratch_helper {
    char *address; /* the socket's abstract name; NULL: this range has no helper */
    int descriptor; /* -1: not connected */
    unsigned char *memory; /* SCRATCH_STAGING_BYTES for each question, shared with it */
    struct scratch_helper_question questions[SCRATCH_HELPER_QUESTIONS];
};

static inline unsigned char *scratch_helper_answer_bytes(const struct scratch_helper *helper,
                                                         size_t number) {
    return helper->memory + number * SCRATCH_STAGING_BYTES;
}

/* Connects if need be; `token` comes back from `scratch_helper_next`. 0 or an errno value. */
int scratch_helper_connect(struct scratch_helper *helper, uintptr_t token);
/* The number of a question that can be asked, SCRATCH_HELPER_QUESTIONS if there is none. */
size_t scratch_helper_free_question(const struct scratch_helper *helper);
/* Whether a page has been asked for. */
bool scratch_helper_is_asked_for(const struct scratch_helper *helper, size_t page);
/* Asks for units; the caller has filled in which pages these are. */
int scratch_helper_ask(struct scratch_helper *helper, size_t number, uint64_t first_unit,
                       uint64_t units);
/*
 * Takes the answer to question *ret_number: 0, or an error with the reason in words. EAGAIN: there is
 * none. EPIPE: there will be none to any question.
 */
int scratch_helper_answer(struct scratch_helper *helper, size_t *ret_number,
                          char reason[SCRATCH_HELPER_TEXT]);
/* Closes the connection; which questions were asked stays to be seen. */
void scratch_helper_disconnect(struct scratch_helper *helper);

/* Becomes readable when any helper has answered; -1 if there is none. */
int scratch_helpers_descriptor(void);
/* The token of a helper that has answered, 0 if none has. */
uintptr_t scratch_helpers_next(void);
/* The pager that had these descriptors has ended. */
void scratch_helpers_forget_descriptors(void);

#endif
