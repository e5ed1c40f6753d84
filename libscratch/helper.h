/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process that makes the pages of a range whose fixup needs an interpreter. It must not be a
 * thread of the reader's, because a reader that waits for a page may hold what that thread needs.
 *
 * The pager connects to the process, hands it shared memory, and asks for some units; the answer says
 * that they are there, or why not. While it is awaited the pager goes on serving other ranges. What
 * isn't said to be another thread's runs on the pager's, and its descriptors are in the pager's own
 * table; they go when the pager ends.
 *
 * The first connection is to the process's abstract socket. Who has forked may be another user by
 * then, or in another network namespace, where that name is nothing. So whoever forks makes the
 * connections that the pagers of both sides will need, and passes the process its ends of them through
 * the owner's socket, which is open since the process was started. Where the application has closed
 * that the pager connects by name again. Whoever connects shows the key.
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
    unsigned char key[SCRATCH_HELPER_KEY_BYTES];
    int owner;           /* the owner's socket, in the application's table; -1: there is none */
    uint64_t owner_file; /* its inode: a number may be another file's by now */
    int next;      /* a connection for the next pager, in the table of whoever starts it; or -1 */
    int childs;    /* the same for the child of a fork that is under way */
    int handed;     /* of `next`, what the pager got; or -1 */
    int descriptor; /* -1: not connected */
    unsigned pager_number; /* whose `handed` and `descriptor` are */
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

static inline void scratch_helper_prepare(struct scratch_helper *helper) {
    helper->owner = helper->next = helper->childs = helper->handed = helper->descriptor = -1;
}

/* On the thread that makes the range. */
void scratch_helper_set_owner(struct scratch_helper *helper, int owner);
/* On the thread that forks: connections for the pagers of both sides. */
void scratch_helper_before_fork(struct scratch_helper *helper);
void scratch_helper_after_fork_in_parent(struct scratch_helper *helper);
void scratch_helper_after_fork_in_child(struct scratch_helper *helper);
/* On a new pager, which has `next` and nothing else of the helper's. */
void scratch_helper_restart(struct scratch_helper *helper);
/* On its starter's thread, when it has; or when none will. */
void scratch_helper_close_next(struct scratch_helper *helper);

/* Becomes readable when any helper has answered; -1 if there is none. */
int scratch_helpers_descriptor(void);
/* The token of a helper that has answered, 0 if none has. */
uintptr_t scratch_helpers_next(void);
/* The pager that had these descriptors has ended. */
void scratch_helpers_forget_descriptors(void);

#endif
