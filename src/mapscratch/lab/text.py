# SPDX-License-Identifier: Apache-2.0
"""Numbers and names in words: each is said in one way."""

from __future__ import annotations

from mapscratch.lab.rig.results import SwapDescription


def microseconds(value: float) -> str:
    """A time in µs, with two digits that mean something."""
    return (
        f"{value:.0f} µs" if value >= 10 else f"{value:.1f} µs" if value >= 1 else f"{value:.2f} µs"
    )


def swap_name(swap: SwapDescription) -> str:
    """Where the kernel swaps to, in words."""
    names = {"none": "swap", "file": "a swapfile", "partition": "a swap partition", "zram": "zram"}
    return names[swap.kind] + (" behind zswap" if swap.zswap and swap.kind != "none" else "")
