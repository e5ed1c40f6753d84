/* SPDX-License-Identifier: Apache-2.0 */
/* Readers for whom something is to be made ahead. On the pager's thread. */
#ifndef SCRATCH_AHEAD_H
#define SCRATCH_AHEAD_H

#include "range.h"

/* Notes a reader, if something of it is on its way. */
void scratch_ahead_note(const struct scratch_range *range, const struct scratch_stream *stream);
/* All readers of a range. */
void scratch_ahead_note_all(const struct scratch_range *range);
/* The reader that was noted first, and not any more: an address and the number of its stream. */
bool scratch_ahead_take(uintptr_t *ret_address, size_t *ret_stream);
void scratch_ahead_forget(void);

#endif
