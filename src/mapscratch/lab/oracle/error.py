# SPDX-License-Identifier: Apache-2.0
"""The one exception of a checker that can't check."""

from mapscratch.errors import UserError


class OracleError(UserError, RuntimeError):
    """readelf is missing, or no reader can be used for a library; the message says what to do."""
