# SPDX-License-Identifier: Apache-2.0
"""Say whether arrays and caches work here, and if not, why, and what to do.

Each is tried. Then come the details: what an ordinary private mapping gets, which engines of
scratch mappings run and what to do about the others, the machine. Nothing is changed.

Examples:
  mapscratch doctor
  mapscratch doctor --json | jq .answers
"""

from __future__ import annotations

import argparse
import json

from mapscratch.doctor.diagnosis import diagnose
from mapscratch.doctor.terminal import diagnosis_document, diagnosis_lines

HELP = "do arrays and caches work here, and what to do if not"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the command takes."""
    parser.add_argument("--json", action="store_true", help="print it for programs")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    diagnosis = diagnose()
    if arguments.json:
        print(json.dumps(diagnosis_document(diagnosis), indent=2))
    else:
        print("\n".join(diagnosis_lines(diagnosis)))
    return 0
