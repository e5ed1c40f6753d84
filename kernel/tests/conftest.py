# SPDX-License-Identifier: GPL-2.0-only
"""Limits of tests are for an idle machine, which an emulated one never is."""

from support.patience import pytest_timeout_set_timer  # noqa: F401
