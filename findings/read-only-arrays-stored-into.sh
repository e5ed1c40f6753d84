#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Does a library leave an array alone whose `flags.writeable` is False?
#
# These three change it, and say nothing: BLAS's daxpy by SciPy, whose second argument is its result where that has the
# right type; scipy.linalg.inv with overwrite_a, where the array lies by columns; and bottleneck.replace. An array in
# ordinary memory is used here, so nothing worse happens. Of a read-only mapping the same calls end the process.
#
# Seen with NumPy 2.4.6, SciPy 1.17.1, Bottleneck 1.6.0, CPython 3.11, x86-64:
#   daxpy: changed
#   inv: changed
#   replace: changed
set -euo pipefail

python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  numpy==2.4.6 scipy==1.17.1 bottleneck==1.6.0

cat >"$folder/look.py" <<'PYTHON'
import bottleneck
import numpy as np
from scipy.linalg import blas, inv


def look(name, array, use):
    before = array.copy()
    array.flags.writeable = False
    use(array)
    print(f"{name}: {'left alone' if np.array_equal(before, array) else 'changed'}")


look("daxpy", np.arange(4.0), lambda a: blas.daxpy(np.ones(4), a))
look("inv", np.asfortranarray(np.diag([2.0, 3.0, 4.0])), lambda a: inv(a, overwrite_a=True))
look("replace", np.arange(4.0), lambda a: bottleneck.replace(a, 1.0, 9.0))
PYTHON

"$folder/venv/bin/python" "$folder/look.py" | tee "$folder/seen"
diff - "$folder/seen" <<'TEXT'
daxpy: changed
inv: changed
replace: changed
TEXT
