# SPDX-License-Identifier: GPL-2.0-only
"""Builds Linux with MAP_SCRATCH outside of the tree and tests it in a virtual machine.

No privilege is needed and nothing is left behind but the cache. From the top of the tree, with the
environment that make has made: python -m kernel.vm COMMAND; make kernel, make kernel-test,
make kernel-order and make kernel-hunks do just that.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from kernel.vm import form, hunks, package, passed, suites
from kernel.vm.build import Builder, BuildError
from kernel.vm.machine import JobResult, MachineError, Step, check_host, run_job
from kernel.vm.source import SourceError, cache_directory


def build(arguments: argparse.Namespace) -> int:
    """The unpatched and the patched kernel; nothing is done if both are there."""
    builder = Builder()
    for image in (builder.unpatched(), builder.patched()):
        print(image)
    return 0


def _report(title: str, result: JobResult) -> bool:
    """Tells how a job ended; whether all of it was good, and none of it skipped."""
    print(f"\n{title}")
    good = result.good
    for step in result.steps:
        skips = suites.unexpected_skips(step.output)
        passed_tests = suites.count_passed(step.output)
        verdict = "ok" if not step.status else "TIMED OUT" if step.timed_out else "FAILED"
        if skips or passed_tests == 0:
            good, verdict = False, "SKIPPED"
        count = "" if passed_tests is None else f", {passed_tests} tests passed"
        print(f"  {verdict:10} {step.name}, {step.seconds:.0f} s{count}")
        for reason in skips:
            print(f"    a test was skipped, which here is a defect: {reason}")
    if "compare.json" in result.share:
        swapped = suites.swapped_by_kernel(result.share["compare.json"])
        print(f"  pages that the kernel strategy sent to swap in compare: {swapped}")
        good = good and swapped == 0
    for line in result.complaints:
        print(f"  the kernel complains: {line}")
    if result.why:
        print(f"  {result.why}")
    return good


def _unpatched_shows(result: JobResult) -> bool:
    """Whether the defects show on the kernel without the series, and only they."""
    output = result.steps[0].output if result.steps else ""
    failed = set(re.findall(r"^not ok \d+ (\S+)", output, flags=re.MULTILINE))
    print("\nwithout the series (to show what it is for)")
    for test in (*suites.FAIL_UNPATCHED, *suites.MAY_FAIL_UNPATCHED):
        print(f"  {'fails, as it should' if test in failed else 'not seen in this run'}: {test}")
    must, may = set(suites.FAIL_UNPATCHED), set(suites.MAY_FAIL_UNPATCHED)
    others = [step.name for step in result.steps[1:] if step.status]
    for name in (*result.complaints, *sorted(failed - must - may), *others):
        print(f"  not expected: {name}")
    return result.ended and not result.complaints and not others and must <= failed <= must | may


def test(arguments: argparse.Namespace) -> int:
    """Everything on the patched kernel, and what fails on the unpatched one."""
    began = time.monotonic()
    if arguments.if_changed and passed.already():
        print("the kernel's tests have passed here with just these sources: not run again")
        return 0
    check_host()
    builder = Builder()
    scratch, unpatched, program = builder.patched(), builder.unpatched(), builder.self_test()
    package.install()
    classic = (
        suites.self_test(program, "ext4"),
        suites.self_test(program, "tmpfs"),
        suites.self_test(program, "overlay"),
        suites.reproducers("--expect-fixed", "--seconds", "20"),
        suites.pressure(),
        *suites.contract(),
        suites.code(),
        suites.groups(),
        suites.compare(),
    )
    generations = (suites.self_test(program, "ext4"), suites.pressure())
    before = (
        suites.self_test(program, "ext4", "-v", "droppable", "-t", "droppable_refuses_userfaultfd"),
        suites.pressure(),
    )
    wanted = arguments.only
    results = [
        (title, run_job(image, tuple(s for s in steps if wanted in s.name), lru_gen=lru_gen))
        for title, image, steps, lru_gen in (
            ("with the series, classic LRU lists", scratch, classic, False),
            ("with the series, multi-generational LRU", scratch, generations, True),
        )
        if any(wanted in step.name for step in steps)
    ]
    if not results:
        print(f"error: no step has {wanted!r} in its name", file=sys.stderr)
        return 2
    complaints = form.problems(builder.source)
    print("\nthe series: " + ("\n".join(complaints) or "git am takes it, checkpatch is silent"))
    good = not complaints
    for title, result in results:
        good &= _report(title, result)
    if not wanted:
        good &= _unpatched_shows(run_job(unpatched, before))
    if arguments.save:
        _save(arguments.save, [result for _, result in results])
    if good and not wanted:
        passed.remember()
    print(f"\n{'all good' if good else 'NOT GOOD'}, {time.monotonic() - began:.0f} s")
    return 0 if good else 1


def _save(directory: Path, results: list[JobResult]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for result in results:
        for name, content in result.share.items():
            (directory / name).write_bytes(content)
        for step in result.steps:
            (directory / f"{step.name.replace(' ', '-')}.log").write_text(step.output)


def order(arguments: argparse.Namespace) -> int:
    """The ordering stress: with the series it must be clean, without it is expected not to be."""
    check_host()
    builder = Builder()
    program = builder.self_test()
    pattern = re.compile(r":(\d+ rounds, .*) out of order")
    good = True
    for title, image, variants in (
        ("with the series", builder.patched(), ("scratch", "droppable")),
        ("without", builder.unpatched(), ("droppable",)),
    ):
        for variant in variants:
            step = suites.self_test(
                program, "ext4", "-r", f"order.{variant}.no_cpu_uses_a_dropped_page",
                order_seconds=arguments.seconds,
            )  # fmt: skip
            runs = tuple(
                Step(f"order, {variant}, {n + 1}", step.command, 60 + arguments.seconds,
                     step.environment)
                for n in range(arguments.runs)
            )  # fmt: skip
            result = run_job(image, runs, quietly=True)
            found = pattern.findall("".join(one.output for one in result.steps))
            reversals = [int(line.rpartition(" ")[2]) for line in found]
            bad = sum(map(bool, reversals))
            print(f"{title}, {variant}: {bad} of {len(found)} runs saw a CPU use a dropped page")
            for line in found:
                print(f"  {line} out of order")
            clean = result.good and len(found) == arguments.runs and not bad
            good &= clean if title == "with the series" else result.ended
            if title == "without" and not bad:
                print("  not seen here without the series either: it takes a race")
    return 0 if good else 1


def take_out(arguments: argparse.Namespace) -> int:
    """Each part of the series taken out: a test must miss it."""
    return hunks.run(arguments.only)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """As Ctrl-C does: whoever has a process or a directory gives it up on the way out."""
    raise SystemExit(128 + number)


def main() -> int:
    """One subcommand; errors that say what to do end it with 2."""
    parser = argparse.ArgumentParser(
        prog="python -m kernel.vm", description=__doc__, epilog=f"The cache: {cache_directory()}"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, function in (
        ("build", build), ("test", test), ("order", order), ("hunks", take_out),
    ):  # fmt: skip
        command = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        command.set_defaults(function=function)
        if name in ("test", "hunks"):
            command.add_argument(
                "--only", default="", metavar="TEXT", help="only steps whose name contains this"
            )
        if name == "test":
            command.add_argument(
                "--if-changed",
                action="store_true",
                help="do nothing if the tests have passed on this machine with the same sources",
            )
            command.add_argument(
                "--save", type=Path, metavar="DIRECTORY", help="keep pictures, figures and logs"
            )
        if name == "order":
            command.add_argument("--runs", type=int, default=20, help="of each kind (default: 20)")
            command.add_argument("--seconds", type=int, default=5, help="of a run (default: 5)")
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        return int(arguments.function(arguments))
    except (BuildError, MachineError, SourceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the guest is gone, and the cache can be used again", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
