# SPDX-License-Identifier: Apache-2.0
"""What an indivisible word operation costs beside ordinary indexing."""

from __future__ import annotations

import os
import tempfile
import timeit

from turns import describe, in_turns, parser_of, ratio, save

import mapscratch

CALLS = 200_000


def nanoseconds(statement: str, **names: object) -> float:
    """One call of a statement."""
    return timeit.timeit(statement, globals=names, number=CALLS) / CALLS * 1e9


def main() -> None:
    arguments = parser_of(__doc__).parse_args()
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as file:
        file.write(os.urandom(1 << 16))
        file.flush()
        m = mapscratch.ScratchMap(file.name)
        words = memoryview(m).cast("Q")
        figures = in_turns(
            {
                "m.load(offset)": lambda: nanoseconds("m.load(80)", m=m),
                "m[i]": lambda: nanoseconds("m[80]", m=m),
                'memoryview(m).cast("Q")[i]': lambda: nanoseconds("words[10]", words=words),
                "m.store(offset, value)": lambda: nanoseconds("m.store(80, 5)", m=m),
                "m.compare_exchange(offset, a, b)": lambda: nanoseconds(
                    "m.compare_exchange(80, 5, 5)", m=m
                ),
            },
            rounds=15,
        )
        words.release()
    print("a word of a resident page")
    describe(figures, "ns")
    index = ratio(figures, "m.load(offset)", "m[i]")
    print(f"m.load takes {index:.2f} x m[i] (goal: at most 2.5)")
    cast = ratio(figures, "m.load(offset)", 'memoryview(m).cast("Q")[i]')
    print(f'm.load takes {cast:.2f} x memoryview(m).cast("Q")[i] (goal: at most 1.5)')
    save({"load_to_index": index, "load_to_memoryview": cast}, arguments.json)


if __name__ == "__main__":
    main()
