/* SPDX-License-Identifier: Apache-2.0 */
#include "figures.h"

struct scratch_board scratch_board;
