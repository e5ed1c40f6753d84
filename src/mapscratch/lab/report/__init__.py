# SPDX-License-Identifier: Apache-2.0
"""`mapscratch report`: all that was measured, as one HTML page."""
