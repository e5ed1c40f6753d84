# SPDX-License-Identifier: Apache-2.0
"""The measuring commands, and what they share. Needs the extra `lab`."""
