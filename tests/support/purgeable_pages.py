# SPDX-License-Identifier: Apache-2.0
"""What models of purgeable memory share: pages of two words, the displaced one and all others."""

from __future__ import annotations

from dataclasses import dataclass

PAGES = 3
ROUNDS = 2  # released and taken back

DATA, CANARY, ZERO = "data", "canary", "zero"


@dataclass(frozen=True)
class Page:
    """What a page holds, and whether the kernel may drop it; of a huge page all may go or none."""

    word: str = DATA
    others: str = DATA
    is_droppable: bool = False
