# SPDX-License-Identifier: Apache-2.0
"""Small documents that nobody measured, with figures as they are on a real machine."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mapscratch.lab.compare.document import comparison_document
from mapscratch.lab.cost.answer import CostReport
from mapscratch.lab.cost.costs import Check, Costs, Fit, Line, Measurement, Point
from mapscratch.lab.cost.document import cost_document
from mapscratch.lab.cost.pages import Distribution, distribution_of_survey
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
    spread = {"median": 64, "p95": 300, "maximum": 512, "mean": 98.8, "histogram": HISTOGRAM}
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


PAGES = distribution_of_survey("the libraries", PAGES_BY_FIXUPS)
MIXED = distribution_of_survey("the libraries", PAGES_BY_FIXUPS, relative_share=0.86)
"""The same pages; it is known how many of their fixups are relative."""

NANOSECONDS = {
    "relocation.relative": ("RELATIVE relocation", "fixup", 1.4),
    "relocation.symbolic.short": ("symbol look-up, 4 libraries", "fixup", 118.0),
    "relocation.symbolic.long": ("symbol look-up, 64 libraries", "fixup", 412.0),
    "fault.copy_on_write": ("copy-on-write fault", "page", 640.0),
    "swap.file.out": ("swap-out to a swapfile", "page", 2900.0),
    "swap.file.in": ("swap-in from a swapfile", "page", 16_800.0),
}


def make_report_line(what: str, page_us: float, fixup_ns: float, points: Any = None) -> Line:
    """A line through its points, or near those that are given: fixups and µs."""
    fit = Fit(page_us, fixup_ns, 0.0, 0.0)
    measured = points or [(k, fit.round_trip_us(k)) for k in (1, 64, 256, 512)]
    return Line(
        what,
        "none" if what.startswith("swap.") else "known values",
        (fit,),
        tuple(Point(k, us, 0.93 * us, 1.1 * us) for k, us in measured),
        ((0.0, 0.0),) * len(measured),
    )


REPORT_LINES = (
    make_report_line("swap.file", 20.1, 0.2),
    make_report_line("swap.zram", 6.4, 1.1),
    make_report_line("swap.zswap", 8.2, 1.0),
    make_report_line("lazyfree", 7.6, 2.2),
    make_report_line("dontneed", 1.9, 6.8),
)
_CHECK = Check("relocation of libbig.so", 1.2, 1.3, 0.92, True, "LD_DEBUG=statistics, ms")


def make_report(pages: Distribution = PAGES, **members: Any) -> CostReport:
    """Costs with three swaps and two engines, and what is said of them."""
    costs = Costs(
        measurements=tuple(
            Measurement(
                ns, 0.9 * ns, 1.2 * ns, name=name, title=title, per=per, rounds=7, note="by a timer"
            )
            for name, (title, per, ns) in NANOSECONDS.items()
        ),
        lines=REPORT_LINES,
        checks=(_CHECK,),
        left_out={"line.kernel": "this kernel has no MAP_SCRATCH"},
        notes=(),
        rounds=7,
        seconds=88.0,
    )
    return CostReport(replace(costs, **members), pages)


def make_cost(pages: Distribution = PAGES, **members: Any) -> Document:
    """The document of `make_report`."""
    document = cost_document(make_report(pages, **members), CREATED, MACHINE)
    return json.loads(json.dumps(document))


BENCH = {
    "date": "2026-02",
    "processor": "A Processor",
    "kernel": "6.12",
    "note": "Some figures only.",
    "figures": {
        "arrays.file_scan": 10,
        "arrays.zram_scan": [3.6, 4.4],
        "cache.deflate_best": 0.71,
        "cache.a_new_figure": 1.25,
        "words.load_to_index": 1.59,
    },
}
"""A run of the benchmarks."""


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
