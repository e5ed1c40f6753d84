# SPDX-License-Identifier: Apache-2.0
"""`mapscratch.Cache`, against what else one would do.

Parts, each one run with its competitors in turns: `hit` (what a hit costs, against a dict in the
order of use), `entry` (what is to be kept in mind of one), `array` (a `CachedArray` that is read),
`limit` (chunks to decode, twice what a memory cgroup may hold, asked for by Zipf's law, by decoding
each time, by `functools.lru_cache`, an LFU and a TinyLFU of many sizes, and by ours) and
`neighbour` (how long another process waits for memory that the cache holds).
"""

from __future__ import annotations

import gc
import json
import mmap
import statistics
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from cache_worker import keys_of
from turns import describe, in_turns, parser_of, ratio, save

import mapscratch
import mapscratch.zarr
from mapscratch.lab.rig.machine.cgroups import (
    TemporaryMemoryCgroup,
    probe_temporary_memory_cgroup,
    temporary_memory_cgroup,
)

PARTS = ("hit", "entry", "array", "limit", "neighbour")
ROUNDS = 9
HUGE = 2 << 20  # bytes
LIMIT = 192  # MiB, and as many chunks
USES = {"deflate": 400, "lzma": 150}  # a turn
SHARES = (0.25, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)  # of the limit: sizes tried
WORKER = Path(__file__).with_name("cache_worker.py")

Results = dict[str, Any]


class LRU:
    """A cache in the order of use, as people write it."""

    def __init__(self) -> None:
        self._values: OrderedDict[Any, Any] = OrderedDict()

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        """The value of a key, made if it isn't there."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        value = self._values[key] = make()
        return value


def told(results: Results, name: str, value: float, goal: str, reached: bool, text: str) -> None:
    results[name] = value
    print(f"  {text} (goal: {goal}: {'reached' if reached else 'MISSED'})")


def never() -> Any:
    raise SystemExit("an entry has gone: there is too little memory for this part")


def time_a_use(use: Callable[[int], Any], keys: list[int]) -> float:
    """Microseconds."""
    started = time.perf_counter()
    for key in keys:
        use(key)
    return (time.perf_counter() - started) / len(keys) * 1e6


def hit(results: Results) -> None:
    hit_of_size(1 << 20, 256, "1 MiB", results)
    hit_of_size(4096, 32_768, "4 KiB", results)


def in_huge_pages(value: Any) -> Any:
    """A copy in memory that begins with a huge page, and was given all that there are."""
    memory = mmap.mmap(-1, value.nbytes + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    copy = np.frombuffer(memory, value.dtype)
    into = -copy.__array_interface__["data"][0] % HUGE // value.itemsize
    copy = copy[into : into + len(value)]
    copy[:] = value
    return copy


def hit_of_size(size: int, entries: int, title: str, results: Results) -> None:
    lru, huge, cache = LRU(), LRU(), mapscratch.Cache()
    for key in range(entries):
        value = np.full(size // 4, key, "f4")
        lru.get(key, lambda value=value: value)
        cache.put(key, value)
    if size >= 1 << 20:
        together = in_huge_pages(np.concatenate([lru.get(key, never) for key in range(entries)]))
        for key, value in enumerate(together.reshape(entries, -1)):
            huge.get(key, lambda value=value: value)

    def of_ours(key: int) -> None:
        with cache.get(key, never):
            pass

    def of_ours_read(key: int) -> None:
        with cache.get(key, never) as value:
            value.sum()

    ways: dict[str, Callable[[int], Any]] = {
        "dict, the hit": lambda key: lru.get(key, never),
        "ours, the hit": of_ours,
        "dict, the hit and a sum": lambda key: lru.get(key, never).sum(),
        "ours, the hit and a sum": of_ours_read,
    }
    if size >= 1 << 20:
        ways["dict in huge pages, the hit and a sum"] = lambda key: huge.get(key, never).sum()
    streams = {
        ("any", "any"): np.random.default_rng(0).integers(0, entries, 2000).tolist(),
        ("zipf", "by Zipf's law"): keys_of(0, 2000, entries),
        ("recent", "one of 8 that were just used"): (
            np.random.default_rng(0).integers(0, 8, 2000).tolist()
        ),
    }
    for (key, which), keys in streams.items():
        figures = in_turns(
            {name: partial(time_a_use, use, keys) for name, use in ways.items()}, ROUNDS
        )
        print(f"a hit on an entry of {title}: {which} of {entries:,}")
        describe(figures, "us")
        name = f"hit_{title.replace(' ', '').lower()}_{key}"
        medians = {way: statistics.median(values) for way, values in figures.items()}
        more = medians["ours, the hit"] - medians["dict, the hit"]
        text = f"the hit takes {more:.1f} us more than the dict's"
        if size < 1 << 20:
            told(results, name, more, "at most 2 us", more <= 2, text)
            continue
        told(results, f"{name}_alone", more, "at most 5 us", more <= 5, text)
        for suffix, other, most in (("", "dict", 1.1), ("_huge", "dict in huge pages", 1.3)):
            value = 1 / ratio(figures, f"{other}, the hit and a sum", "ours, the hit and a sum")
            text = f"hit and sum take {value:.2f} x those of a {other}"
            told(results, name + suffix, value, f"at most {most} x", value <= most, text)
    stats = cache.stats()
    if size >= 1 << 20:
        told(
            results,
            "hit_1mib_split",
            stats.bytes_split / stats.bytes_held,
            "none",
            not stats.bytes_split,
            f"{stats.bytes_huge >> 20} MiB in huge pages, {stats.bytes_split >> 20} in split ones",
        )


def entry(results: Results) -> None:
    """What Python's and our own allocators took for entries, keys apart, and the key's place."""
    count = 50_000
    keys = [*range(count)]
    for size, title in ((4096, "4 KiB"), (64, "64 bytes")):
        cache = mapscratch.Cache()
        value = bytes(size)
        before = resident()
        for key in keys:
            cache.put(key, value)
        held = cache.stats().bytes_held
        taken = (resident() - before - held) / count
        name = f"entry_{size}"
        text = f"an entry of {title} takes {taken:.0f} bytes beside its own"
        told(results, name, taken, "at most 300 bytes", taken <= 300, text)


def resident() -> int:
    """Bytes of this process that are in memory."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE


def array(results: Results) -> None:
    """An array in four chunks that are in the cache, read but for some rows; NumPy's copy of it."""
    values = np.arange(4 << 18, dtype="f4").reshape(1024, 1024)
    store = zarr.create_array(
        store=zarr.storage.MemoryStore(), shape=values.shape, chunks=(256, 1024), dtype="f4"
    )
    store[:] = values
    cached = mapscratch.zarr.CachedArray(store, mapscratch.Cache())
    assert (cached[:, :] == values).all()
    ways: dict[str, Callable[[int], Any]] = {
        "NumPy": lambda key: values[key:, :].copy(),
        "ours": lambda key: cached[key:, :],
    }
    keys = [*range(1, 100)]
    figures = in_turns(
        {name: partial(time_a_use, use, keys) for name, use in ways.items()}, 3 * ROUNDS
    )
    print("a CachedArray read of 4 chunks of 1 MiB")
    describe(figures, "us")
    value = 1 / ratio(figures, "NumPy", "ours")
    told(results, "array", value, "at most 1.2 x", value <= 1.2, f"{value:.2f} x NumPy's copy")


class Worker:
    """A process with one cache, in a memory cgroup of its own."""

    def __init__(self, name: str, codec: str, chunks: int, group: TemporaryMemoryCgroup) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), name, codec, str(chunks)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        group.add(self.process.pid)

    def ask(self, seed: int, uses: int) -> dict[str, float] | None:
        """Has it use chunks; None: it has been killed."""
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(f"{seed} {uses}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def end(self) -> None:
        """Kills it."""
        self.process.kill()
        self.process.communicate()


def limit(results: Results) -> None:
    for codec in USES:
        of_codec(codec, results)


def of_codec(codec: str, results: Results) -> None:
    chunks, uses = 2 * LIMIT, USES[codec]
    sizes = [int(LIMIT * share) for share in SHARES]
    near = [size for size in sizes if size >= LIMIT * 0.7]
    names = ["ours", "decode", *(f"lru-{size}" for size in sizes)]
    names += [f"{policy}-{size}" for policy in ("lfu", "tinylfu") for size in near]
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for name in names:
            group = stack.enter_context(temporary_memory_cgroup(LIMIT << 20))
            workers[name] = Worker(name, codec, chunks, group)
            stack.callback(workers[name].end)
        facts_before = {name: worker.ask(1000, 1200) for name, worker in workers.items()}
        killed = [name for name, answer in facts_before.items() if answer is None]
        speeds: dict[str, list[float]] = {name: [] for name in names if name not in killed}
        by_processor: dict[str, list[float]] = {name: [] for name in speeds}
        facts: dict[str, dict[str, float]] = {}
        for seed in range(ROUNDS):
            for name in list(speeds):
                answer = workers[name].ask(seed, uses)
                if answer is None:
                    killed.append(name)
                    del speeds[name]
                    continue
                speeds[name].append(uses / answer["seconds"])
                by_processor[name].append(uses / answer["processor"])
                facts[name] = answer
    print(f"{chunks} chunks of 1 MiB ({codec}), {LIMIT} MiB for them, asked for by Zipf's law")
    describe(speeds, "uses a second")
    for name in killed:
        print(f"  {name:<44} killed: out of memory")
    fixed = [name for name in speeds if name.startswith("lru-")]
    best = min(fixed, key=lambda name: sum(1 / speed for speed in speeds[name]))
    too_large = f"lru-{int(int(best.removeprefix('lru-')) * 1.2)}"
    with temporary_memory_cgroup(LIMIT << 20) as group:
        worker = Worker(too_large, codec, chunks, group)
        is_killed = not worker.ask(0, 3000)
        worker.end()
    for name in ("ours", best):
        made, hits = (facts[name][fact] - facts_before[name][fact] for fact in ("made", "hits"))
        print(f"  {name}: {100 * hits / (made + hits):.1f} % of the uses were hits")
    print(f"  ours held {facts['ours']['held'] >> 20} MiB at the end, of its own choice")
    # Of the whole run: turns differ by their keys, which are the same for all.
    whole = {name: uses * ROUNDS / sum(uses / speed for speed in speeds[name]) for name in speeds}
    by_decoding, by_best = whole["ours"] / whole["decode"], whole["ours"] / whole[best]
    in_processor_time = {
        name: uses * ROUNDS / sum(uses / speed for speed in by_processor[name]) for name in speeds
    }
    text = f"all turns, against decoding each time: {by_decoding:.2f} x as fast"
    told(results, f"{codec}_decode", by_decoding, "at least 3 x", by_decoding >= 3, text)
    text = f"all turns, against the best fixed size, {best}: {by_best:.2f} x as fast"
    told(results, f"{codec}_best", by_best, "at least 1 x", by_best >= 1, text)
    value = in_processor_time["ours"] / in_processor_time[best]
    text = f"the same by processor time: {value:.2f} x as fast"
    goal = {"deflate": 1.1, "lzma": 1.0}[codec]
    told(results, f"{codec}_best_processor", value, f"at least {goal} x", value >= goal, text)
    for policy in ("lfu", "tinylfu"):
        others = [name for name in speeds if name.startswith(f"{policy}-")]
        other = max(others, key=lambda name: whole[name], default=None)
        if other:
            value = results[f"{codec}_{policy}"] = whole["ours"] / whole[other]
            print(f"  all turns, against the best of them, {other}: {value:.2f} x as fast")
    print(f"  {too_large}, a fifth too large: {'killed' if is_killed else 'not killed'}")
    results[f"{codec}_speeds"] = whole
    results[f"{codec}_killed"] = [*killed, *([too_large] if is_killed else [])]


NEIGHBOUR = """
import mmap, sys, time
memory = mmap.mmap(-1, int(sys.argv[1]), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
input()
started = time.perf_counter()
for offset in range(0, len(memory), 4096):
    memory[offset] = 1
print(time.perf_counter() - started, flush=True)
input()
"""


def neighbour(results: Results) -> None:
    """A process in the same group wants half of the memory, all of which the cache holds."""
    size = LIMIT // 2
    times: dict[str, list[float]] = {"empty": [], "full": []}
    for _ in range(20):
        for name, values in times.items():
            with temporary_memory_cgroup(LIMIT << 20) as group, ExitStack() as stack:
                worker = Worker("ours", "deflate", LIMIT, group)
                stack.callback(worker.end)
                if name == "full":
                    worker.ask(0, 2000)  # and then it does nothing at all
                wanting = subprocess.Popen(
                    [sys.executable, "-c", NEIGHBOUR, str(size << 20)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                stack.callback(wanting.communicate)
                stack.callback(wanting.kill)
                group.add(wanting.pid)
                assert wanting.stdin and wanting.stdout
                wanting.stdin.write("\n")
                wanting.stdin.flush()
                values.append(float(wanting.stdout.readline() or "nan"))
    print(f"a neighbour touches {size} MiB of the {LIMIT} that both may have")
    describe({f"the cache is {name}": values for name, values in times.items()}, "s")
    worst = max(times["full"])
    told(
        results,
        "neighbour",
        worst,
        "at most 0.2 s",
        worst <= 0.2,
        f"it has it after {worst:.2f} s at most, and nobody was killed",
    )


def draw(results: Results, path: Path) -> None:
    """Uses a second by the size of an lru_cache, and ours, which has none."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "mapscratch"
    figure, both = pyplot.subplots(1, len(USES), figsize=(8, 3.6), layout="constrained")
    for axes, codec in zip(both, USES, strict=True):
        speeds, killed = results[f"{codec}_speeds"], results[f"{codec}_killed"]
        ours = speeds["ours"]
        sizes = {int(name[4:]): speed / ours for name, speed in speeds.items() if "lru" in name}
        axes.plot(list(sizes), list(sizes.values()), "o-", label="lru_cache of that size")
        axes.plot(
            [int(name[4:]) for name in killed],
            [0] * len(killed),
            "x",
            color="C3",
            label="killed: out of memory",
        )
        axes.axhline(1, color="C2", label="mapscratch.Cache, without a size")
        axes.axhline(speeds["decode"] / ours, color="gray", ls=":", label="decoding each time")
        axes.set_ylim(bottom=-0.05)
        axes.set_xlabel(f"entries of 1 MiB, of {2 * LIMIT}")
        axes.set_title(f"{codec}, limit {LIMIT} MiB", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    both[0].set_ylabel("uses a second, to ours")
    both[-1].legend(frameon=False, fontsize=7)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--part", choices=PARTS, action="append", help="only this; may be repeated")
    parser.add_argument("--chart", type=Path, help="draw `limit` there, as SVG")
    arguments = parser.parse_args()
    parts = arguments.part or PARTS
    results: Results = {}
    for name, part in (("hit", hit), ("entry", entry), ("array", array)):
        if name in parts:
            part(results)
    possible = probe_temporary_memory_cgroup()
    for name, part in (("limit", limit), ("neighbour", neighbour)):
        if name in parts and possible:
            part(results)
        elif name in parts:
            print(f"{name}: not measured: {possible.reason}")
    save(results, arguments.json)
    if arguments.chart and "deflate_speeds" in results:
        draw(results, arguments.chart)


if __name__ == "__main__":
    main()
