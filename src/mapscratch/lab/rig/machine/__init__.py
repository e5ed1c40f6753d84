# SPDX-License-Identifier: Apache-2.0
"""Swap and control groups that are made for the length of a ``with`` block, and always removed."""
