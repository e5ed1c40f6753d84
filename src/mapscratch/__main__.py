# SPDX-License-Identifier: Apache-2.0
"""``python -m mapscratch`` is the command ``mapscratch``."""

import sys

from mapscratch.cli import main

sys.exit(main())
