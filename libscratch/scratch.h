/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libscratch: memory that the kernel may throw away, below any language.
 *
 * It holds what must run without an interpreter: the page-fault path, the drop policy that memory
 * pressure wakes, and the ownership of address ranges. It decides nothing that a user could want to
 * change: sizes, windows and shares are all in `scratch_settings`.
 *
 * Functions return 0 or a positive errno value; results come back through parameters named `ret`.
 *
 * This is for those who use the library; its own files include what they need.
 */
#ifndef SCRATCH_H
#define SCRATCH_H

#include "base.h"
#include "fork.h"
#include "mapping.h"
#include "pager.h"
#include "pin.h"
#include "pressure.h"
#include "probe.h"

#endif
