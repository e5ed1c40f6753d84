# SPDX-License-Identifier: Apache-2.0
"""The experiment: processes, strategies, rounds and results that `compare` reports."""
