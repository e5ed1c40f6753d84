# SPDX-License-Identifier: Apache-2.0
"""What works here, and what would make the rest work: `mapscratch doctor`."""
