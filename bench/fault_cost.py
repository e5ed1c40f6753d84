# SPDX-License-Identifier: Apache-2.0
"""One page fault served by the pager, against one served in the faulting thread (SIGBUS mode).

Runs ``build/native/tests/native/fault_cost`` (built by ``make bench``); its source says what is
measured.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from turns import describe, parser_of, ratio, save

PROGRAM = Path(__file__).parent.parent / "build/native/tests/native/fault_cost"
NAMES = {
    "sigbus": "SIGBUS mode",
    "event": "pager, a thread that may run anywhere",
    "sigbus_bound": "SIGBUS mode, bound to one processor",
    "event_bound": "pager, a thread bound to one processor",
}


def main() -> None:
    arguments = parser_of(__doc__).parse_args()
    output = subprocess.run([PROGRAM], check=True, capture_output=True, text=True).stdout
    rounds = json.loads(output)["rounds"]
    figures = {name: [round_[key] for round_ in rounds] for key, name in NAMES.items()}
    print("one page fault of 4 KiB, random, no fault-around")
    describe(figures, "us")
    bound = ratio(figures, NAMES["event_bound"], NAMES["sigbus_bound"])
    free = ratio(figures, NAMES["event"], NAMES["sigbus"])
    print(f"thread bound to one processor: {bound:.2f} x SIGBUS mode (goal: at most 1.5)")
    print(f"thread that may run anywhere:  {free:.2f} x SIGBUS mode (goal: at most 1.5)")
    save({"bound": bound, "free": free}, arguments.json)


if __name__ == "__main__":
    main()
