#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# What does the first numpy.unique of a process do besides computing?
#
# From NumPy 2.3 on it imports numpy.ma, under the lock of that import. A process that another thread forks meanwhile
# has the lock taken for good, and its own first numpy.unique waits for ever. NumPy 1.26 had imported numpy.ma together
# with numpy, and NumPy 2.2 imports it in neither place.
#
# Seen with CPython 3.11, x86-64, Linux 6.18:
#   1.26.4: before True, after True
#   2.2.6: before False, after False
#   2.3.5: before False, after True
#   2.4.6: before False, after True
set -euo pipefail

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || {
  echo "NumPy 1.26.4 and 2.4.6 both have wheels for Python 3.11 and 3.12: PYTHON=python3.12 $0" >&2
  exit 2
}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat >"$folder/look.py" <<'PYTHON'
import sys

import numpy as np

before = "numpy.ma" in sys.modules
np.unique(np.arange(3))
print(f"{np.__version__}: before {before}, after {'numpy.ma' in sys.modules}")
PYTHON

cat >"$folder/expected" <<'TEXT'
1.26.4: before True, after True
2.2.6: before False, after False
2.3.5: before False, after True
2.4.6: before False, after True
TEXT

for version in 1.26.4 2.2.6 2.3.5 2.4.6; do
  "$python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$folder/$version" "numpy==$version"
  PYTHONPATH="$folder/$version" "$python" "$folder/look.py"
done | tee "$folder/seen"
diff "$folder/expected" "$folder/seen"
