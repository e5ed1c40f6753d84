# SPDX-License-Identifier: Apache-2.0
"""Say what an ordinary private mapping gets here, which engines run, and why the others don't.

Nothing is changed. The first line is about ordinary mappings; then come the engines of scratch
mappings with what to do about those that don't run.

Examples:
  mapscratch doctor
  mapscratch doctor --json | jq .engines
"""

from __future__ import annotations

import argparse
import json

from mapscratch.doctor.diagnosis import diagnose
from mapscratch.doctor.terminal import diagnosis_document, diagnosis_lines


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "doctor",
        help="what an ordinary mapping gets here, and which engines run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print it for programs")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    diagnosis = diagnose()
    if arguments.json:
        print(json.dumps(diagnosis_document(diagnosis), indent=2))
    else:
        print("\n".join(diagnosis_lines(diagnosis)))
    return 0
