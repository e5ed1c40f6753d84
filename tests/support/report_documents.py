# SPDX-License-Identifier: Apache-2.0
"""Small documents that nobody measured, with figures as they are on a real machine."""

from __future__ import annotations

import json
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mapscratch.lab.compare.document import comparison_document
from support.comparisons import SWAPFILE, ZRAM, make_comparison, make_round

Document = dict[str, Any]
CREATED = datetime(2026, 2, 3, 17, 57, 5, tzinfo=UTC)
MACHINE = {"kernel": "6.12.1-test", "architecture": "x86_64", "processors": 2, "page_size": 4096}
HISTOGRAM = [
    [1, 1, 1210], [2, 3, 880], [4, 7, 1130], [8, 15, 1500], [16, 31, 1720], [32, 63, 2240],
    [64, 127, 3010], [128, 255, 3980], [256, 511, 3120], [512, 512, 240],
]  # fmt: skip

PAGES_BY_FIXUPS = [(low, pages) for low, _, pages in HISTOGRAM[:-2]] + [(300, 3120), (512, 240)]
"""As many in each class; all pages of one at one number."""


def _head(name: str, seconds: float) -> Document:
    return {
        "document": name,
        "version": 1,
        "mapscratch": "0.1.0",
        "created": CREATED.isoformat(),
        "machine": MACHINE,
        "seconds": seconds,
    }


def make_survey(**members: Any) -> Document:
    """A survey of a few libraries and processes."""
    names = ("libcrypto.so.3", "libpython3.11.so.1.0", "libc.so.6", "libLLVM-15.so.1")
    spread = {"median": 84, "p95": 398, "maximum": 512, "mean": 140.3, "histogram": HISTOGRAM}
    libraries = [
        {
            "path": f"/usr/lib/x86_64-linux-gnu/{name}",
            "kinds": {"RELATIVE": 9000 * n, "RELR": 0, "symbolic": 900 * n, "JUMP_SLOT": 310 * n},
            "fixups": 10210 * n,
            "dirtied_pages": 90 * n,
            "saved_pages": 2 * n,
        }
        for n, name in enumerate(names, start=1)
    ]
    commands = (
        "python3",
        "dockerd",
        "a-service-with-quite-a-long-name-of-its-own --that-says-much",
    )
    processes = [
        {
            "pid": 100 + n,
            "command": command,
            "pss_bytes": (n + 1) << 24,
            "relocated_pages": 400 * (n + 1),
            "saved_pages": 17 * n,
        }
        for n, command in enumerate(commands)
    ]
    totals = {
        "libraries": 1024, "fixups": 3_104_221, "dirtied_pages": 19_030, "saved_pages": 611,
        "bind_now_or_no_plt_share": 0.63, "fixups_per_page": spread, "processes": 3,
        "pages_by_fixups": [[k, n] for k, n in PAGES_BY_FIXUPS],
        "window_pages": 21_000, "largest_share": 0.54, "library_median": 48.25,
        "library_symbolic_share": 0.76, "relocated_pages": 2400,
        "relocated_pss_bytes": 6_291_456, "saved_pages_in_processes": 51,
    }  # fmt: skip
    skipped = [{"path": "/usr/lib/broken.so", "reason": "not an ELF file"}]
    return _head("mapscratch.survey", 41.2) | {
        "libraries": libraries,
        "processes": processes,
        "skipped": skipped,
        "totals": totals,
    } | members  # fmt: skip


def _line(what: str, page_us: float, fixup_ns: float) -> Document:
    points = []
    for fixups in (1, 64, 256, 512):
        middle = page_us + fixup_ns * fixups / 1e3
        points.append([fixups, middle, 0.93 * middle, 1.1 * middle])
    return {
        "what": what,
        "fixups": "none" if what.startswith("swap.") else "known values",
        "page_us": page_us,
        "fixup_ns": fixup_ns,
        "points": points,
    }


def make_cost(**members: Any) -> Document:
    """Costs with three swaps and two engines."""
    figures = (
        ("relocation.relative", "RELATIVE relocation", "fixup", 1.4),
        ("relocation.symbolic.short", "symbol look-up, 4 libraries", "fixup", 118.0),
        ("relocation.symbolic.long", "symbol look-up, 64 libraries", "fixup", 412.0),
        ("fault.copy_on_write", "copy-on-write fault", "page", 640.0),
        ("swap.file.out", "swap-out to a swapfile", "page", 2900.0),
        ("swap.file.in", "swap-in from a swapfile", "page", 16_800.0),
    )
    measurements = [
        {
            "name": name, "title": title, "unit": "ns", "per": per, "median": median,
            "minimum": 0.9 * median, "maximum": 1.2 * median, "rounds": 7, "note": "by a timer",
        }
        for name, title, per, median in figures
    ]  # fmt: skip
    lines = [
        _line("swap.file", 20.1, 0.2), _line("swap.zram", 6.4, 1.1), _line("swap.zswap", 8.2, 1.0),
        _line("lazyfree", 7.6, 2.2), _line("dontneed", 1.9, 6.8),
    ]  # fmt: skip
    checks = [
        {
            "what": "relocation of libbig.so", "ours": 1.2, "theirs": 1.3, "ratio": 0.92,
            "agrees": True, "note": "LD_DEBUG=statistics, ms; within 25 %",
        }
    ]  # fmt: skip
    baselines = [
        {
            "name": name, "title": title, "sentence": sentence, "measured": measured,
            "source": source, "figures": numbers,
        }
        for name, title, sentence, measured, source, numbers in (
            ("zygote", "Pre-fork (zygote)", "Forked workers share what the parent relocated.",
             True, None, {"shared_pages": 912, "private_pages": 14}),
            ("prelink", "prelink, or a fixed base", "No page is dirtied, and no address is random.",
             False, "https://lwn.net/Articles/190139/", {}),
        )
    ]  # fmt: skip
    document = _head("mapscratch.cost", 88.0) | {
        "measurements": measurements,
        "lines": lines,
        "checks": checks,
        "left_out": {"line.kernel": "this kernel has no MAP_SCRATCH"},
        "device": {"name": None, "latency_us": None, "kernel_us": 2.9 + 0.64},
        "baselines": baselines,
    } | members  # fmt: skip
    return {"break_even": _break_even(document)} | document


def _break_even(cost: Document) -> list[Document]:
    """Where the lines of a document meet."""
    loader = {one["name"]: one["median"] for one in cost["measurements"]}
    swaps = [one for one in cost["lines"] if one["what"].startswith("swap.")]
    rows = []
    for line in cost["lines"]:
        if line in swaps:
            continue
        kinds = [
            ("known value", None, line["fixup_ns"]),
            ("relative", None, loader.get("relocation.relative")),
            ("symbolic", "short", loader.get("relocation.symbolic.short")),
            ("symbolic", "long", loader.get("relocation.symbolic.long")),
        ]
        for swap in swaps:
            for fixup, scope, fixup_ns in kinds:
                if fixup_ns is None:
                    continue
                gain_ns = (swap["page_us"] - line["page_us"]) * 1e3
                slope = fixup_ns - swap["fixup_ns"]
                limit = gain_ns / slope if slope > 0 else None
                never = gain_ns <= 0 if limit is None else limit <= 0
                more = not never and (limit is None or limit > 512)
                rows.append({
                    "swap": swap["what"].removeprefix("swap."), "engine": line["what"],
                    "fixup": fixup, "scope": scope, "fixup_ns": fixup_ns,
                    "page_swap_us": swap["page_us"], "swap_fixup_ns": swap["fixup_ns"],
                    "page_scratch_us": line["page_us"],
                    "pays": "never" if never else "always" if more else "up to",
                    "more_than_fit": more, "fixups": limit, "minimum": limit, "maximum": limit,
                })  # fmt: skip
    return rows


def make_break_even() -> list[Document]:
    """Where the lines of `make_cost` meet, with fixups of which 86 % are relative."""
    kinds = (
        ("known value", None, 2.2), ("relative", None, 1.4),
        ("mixed", "short", 0.86 * 1.4 + 0.14 * 118), ("mixed", "long", 0.86 * 1.4 + 0.14 * 412),
        ("symbolic", "short", 118.0), ("symbolic", "long", 412.0),
    )  # fmt: skip
    rows = []
    for swap, swap_us in (("file", 20.1), ("zram", 9.4), ("zswap", 8.2)):
        for fixup, scope, fixup_ns in kinds:
            limit = (swap_us - 7.6) * 1e3 / fixup_ns
            rows.append({
                "swap": swap, "engine": "lazyfree", "fixup": fixup, "scope": scope,
                "fixup_ns": fixup_ns, "page_swap_us": swap_us, "page_scratch_us": 7.6,
                "pays": "always" if limit > 512 else "up to", "more_than_fit": limit > 512,
                "fixups": limit, "minimum": -7.5, "maximum": 2 * limit if scope else None,
            })  # fmt: skip
    return rows


def make_compare(swap: str = "file", **members: Any) -> Document:
    """A comparison; its pages went to a swapfile, or to zram."""
    names = ("private", "lazyfree", "dontneed")
    rounds = [make_round(name, count) for count in (1, 2, 4, 8) for name in names]
    comparison = make_comparison(*rounds, swap=ZRAM if swap == "zram" else SWAPFILE)
    document = comparison_document(comparison, CREATED) | {"machine": MACHINE}
    return json.loads(json.dumps(document)) | members


def make_ps(**members: Any) -> Document:
    """One process with one mapping."""
    mapping = {
        "kind": "array", "name": "/data/image.raw", "engine": "lazyfree", "bytes": 1 << 30,
        "droppable_bytes": 1 << 26, "dropped_pages": 1200, "rebuilt_pages": None,
    }  # fmt: skip
    process = {"pid": 7, "command": "python3", "readable": True, "problem": None}
    return _head("mapscratch.ps", 0.1) | {
        "processes": [process | {"mappings": [mapping]}],
    } | members  # fmt: skip


def saved(document: Document, folder: Path, name: str = "") -> Path:
    """Writes a document into a file."""
    path = folder / (name or f"{document['document'].rpartition('.')[2]}.json")
    path.write_text(json.dumps(deepcopy(document)), encoding="utf-8")
    return path
