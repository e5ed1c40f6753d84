# SPDX-License-Identifier: Apache-2.0
"""`mapscratch cost`: what a fixup costs, and from how many on swap is cheaper."""
