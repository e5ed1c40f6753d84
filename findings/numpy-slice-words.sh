#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Filling a slice of 8-byte integers with one value: does it store whole aligned words?
#
# A private mapping of a file is filled again and again while another thread drops its pages (MADV_DONTNEED). Where a
# page goes amid the filling, words before show the file and words behind the value. With NumPy 2.4.6 every word is one
# or the other. With NumPy 2.5.5 the word in between may have bytes of both: the fill copies by bytes, and the page
# fault interrupts it inside of a word. Nothing documents either; lock-free readers in other threads would see it too.
#
# Seen with CPython 3.13.0, x86-64 (Ice Lake), Linux 6.18, glibc 2.36:
#   numpy 2.4.6: cut words: none
#   numpy 2.5.5: cut words: some
set -euo pipefail

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 12))' || {
  echo "NumPy 2.5 needs Python 3.12 or newer: PYTHON=python3.13 $0" >&2
  exit 2
}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat >"$folder/look.py" <<'PYTHON'
import mmap
import sys
import tempfile
import threading
import time

import numpy as np

PAGE, PAGES = mmap.PAGESIZE, 16
IN_FILE = 0x1111111111111111
sys.setswitchinterval(1e-4)
with tempfile.TemporaryFile() as file:
    file.write(np.full(PAGES * PAGE // 8, IN_FILE, "u8").tobytes())
    file.flush()
    memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
words = np.frombuffer(memory, "u8").reshape(PAGES, -1)
end = time.monotonic() + 20
cut = dropped = 0


def drop():
    while time.monotonic() < end and not cut:
        memory.madvise(mmap.MADV_DONTNEED)


dropper = threading.Thread(target=drop)
dropper.start()
value = 0
while time.monotonic() < end and not cut:
    value += 1
    page = words[value % PAGES]
    page[:] = value
    seen = page.copy()
    dropped += bool((seen == IN_FILE).any())
    cut += int(((seen != IN_FILE) & (seen != value)).sum())
dropper.join()
assert dropped, "no page went: nothing was seen"
print(f"numpy {np.__version__}: cut words: {'some' if cut else 'none'}")
PYTHON

for version in 2.4.6 2.5.5; do
  "$python" -m venv "$folder/$version"
  "$folder/$version/bin/python" -m pip install --quiet --disable-pip-version-check "numpy==$version"
  "$folder/$version/bin/python" "$folder/look.py"
done | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
numpy 2.4.6: cut words: none
numpy 2.5.5: cut words: some
SEEN
