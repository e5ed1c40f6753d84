# SPDX-License-Identifier: Apache-2.0
"""Runs the benchmarks and keeps what they found, with the machine and the date: ``make bench``.

Each run becomes two files in ``bench/results/``: the figures, and all that was printed. The tables
of ``docs/figures.md`` and the figures in the prose of the README and of other pages are made from
all files there (``make docs``), so that a figure stands once and holds on more than one machine.

Some of it needs root: a temporary swapfile, zram and memory cgroups. Without root that is left out.
Leave the machine alone meanwhile; it takes some 20 minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import mapscratch

HERE = Path(__file__).parent
RESULTS = HERE / "results"
Figures = dict[str, float]


def of_compare(document: Mapping[str, Any]) -> Figures:
    """Pages in swap of the run with most processes, and words that were wrong."""
    most = max(one["processes"] for one in document["results"])
    found: Figures = {
        "wrong_words": document["wrong_words"],
        "words_checked": sum(one["words_checked"] for one in document["rounds"]),
    }
    for one in document["results"]:
        swapped = one["figures"]["swapped_out_pages"]
        if one["processes"] == most and swapped:
            found[f"{one['strategy']}_swapped"] = swapped["median"]
    return found


def of_survey(document: Mapping[str, Any]) -> Figures:
    """Libraries, fixups a page, and how many dirtied pages conversion saves."""
    totals = document["totals"]
    return {
        "libraries": totals["libraries"],
        "seconds": document["seconds"],
        "fixups_median": totals["fixups_per_page"]["median"],
        "fixups_mean": totals["fixups_per_page"]["mean"],
        "fixups_p95": totals["fixups_per_page"]["p95"],
        "saved_percent": 100 * totals["saved_pages"] / totals["dirtied_pages"],
    }


def of_cost(document: Mapping[str, Any]) -> Figures:
    """What a fixup costs ld.so, and from how many a page on dropping it takes longer."""
    found = {one["name"]: one["median"] for one in document["measurements"]}
    found |= {f"check.{one['what']}": one["ratio"] for one in document["checks"]}
    for one in document["break_even"]:
        if one["engine"] == "lazyfree" and one["fixup"] == "mixed":
            key = f"break_even.{one['swap']}.{one['scope']}"
            for what in ("fixups", "minimum", "maximum"):
                if one[what] is not None:
                    found[f"{key}.{what}"] = one[what]
    return found


@dataclass(frozen=True)
class Benchmark:
    """One command.

    Attributes:
        words: the command; ``{json}`` is where it writes.
        figures: of what it wrote; None: that is figures already.
        keeps_text: what it prints is kept too. A survey's names this machine's files.
    """

    words: tuple[str, ...]
    figures: Callable[[Mapping[str, Any]], Figures] | None = None
    keeps_text: bool = True


def _script(name: str) -> Benchmark:
    return Benchmark((sys.executable, str(HERE / f"{name}.py"), "--json", "{json}"))


def _command(
    figures: Callable[[Mapping[str, Any]], Figures], name: str, *options: str, keeps: bool = True
) -> Benchmark:
    command = (sys.executable, "-m", "mapscratch", name, *options, "--json", "{json}")
    return Benchmark(command, figures, keeps)


BENCHMARKS = {
    "words": _script("words"),
    "page_in": _script("page_in"),
    "fault_cost": _script("fault_cost"),
    "round_trip": _script("round_trip"),
    "arrays": _script("arrays"),
    "cache": _script("cache"),
    "code_fixups": _script("code_fixups"),
    "compare": _command(of_compare, "compare", "--swap", "auto"),
    "survey": _command(of_survey, "survey", "--installed", keeps=False),
    "cost": _command(of_cost, "cost", "--swap", "all", "--seconds", "100"),
}


def machine() -> dict[str, object]:
    """What the figures depend on, as far as the machine tells."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")

    def told(name: str) -> str:
        found = re.search(rf"^{name}\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
        return found[1] if found else "unknown"

    release = platform.freedesktop_os_release()
    pages, page_size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": f"{told('model name')}, family {told('cpu family')} model {told('model')}",
        "processors": os.cpu_count(),
        "virtual": re.search(r"^flags\s*:.*\bhypervisor\b", cpuinfo, re.MULTILINE) is not None,
        "memory_gib": round(pages * page_size / 2**30),
        "kernel": re.match(r"[\d.]+", os.uname().release)[0],  # type: ignore[index]
        "distribution": release.get("PRETTY_NAME", "unknown"),
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
        "mapscratch": mapscratch.__version__,
    }


def run(name: str, benchmark: Benchmark) -> tuple[Figures, str]:
    """Runs one and shows what it prints; its figures, and that text.

    Raises:
        SystemExit: it failed.
    """
    printed = []
    with tempfile.TemporaryDirectory() as directory:
        saved = Path(directory, "figures.json")
        words = [word.format(json=saved) for word in benchmark.words]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            for line in process.stdout:
                print(line, end="", flush=True)
                printed.append(line)
        if process.returncode:
            raise SystemExit(f"{name} ended with status {process.returncode}")
        document = json.loads(saved.read_text(encoding="utf-8"))
    figures = benchmark.figures(document) if benchmark.figures else document
    named = {
        f"{name}.{key}": float(f"{value:.6g}")
        for key, value in figures.items()
        if isinstance(value, int | float)
    }
    return named, "".join(printed)


def texts_of(path: Path) -> dict[str, str]:
    """What was printed by each benchmark, out of the file that holds all of it."""
    if not path.exists():
        return {}
    _, *pieces = re.split(r"^== (\w+)\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(pieces[::2], pieces[1::2], strict=True))


def record(names: Sequence[str], target: Path) -> None:
    """Runs them and writes both files; what was kept there of other benchmarks stays."""
    kept = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {}
    figures: Figures = kept.get("figures", {})
    texts = texts_of(target.with_suffix(".txt"))
    for name in names:
        print(f"== {name}", flush=True)
        found, text = run(name, BENCHMARKS[name])
        figures = {key: value for key, value in figures.items() if key.split(".")[0] != name}
        figures |= found
        if BENCHMARKS[name].keeps_text:
            texts[name] = text
        document = {"date": date.today().isoformat(), **machine(), "figures": figures}
        target.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        target.with_suffix(".txt").write_text(
            "".join(f"== {name}\n{text}" for name, text in texts.items()), encoding="utf-8"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    known = ", ".join(BENCHMARKS)
    parser.add_argument("name", nargs="*", help=f"only these, of: {known} (default: all)")
    parser.add_argument(
        "--run", metavar="NAME", help="what the files are called (default: date and processor)"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.name) - set(BENCHMARKS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are: {known}")
    processor = re.sub(r"\(.*?\)|@.*|,.*", "", str(machine()["processor"]))
    default = f"{date.today().isoformat()}-{'-'.join(processor.lower().split())}"
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"{arguments.run or default}.json"
    try:
        record(arguments.name or list(BENCHMARKS), target)
    except KeyboardInterrupt:
        sys.exit(130)
    print(f"wrote {target}; `make docs` puts it into the tables")


if __name__ == "__main__":
    main()
