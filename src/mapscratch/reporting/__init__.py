# SPDX-License-Identifier: Apache-2.0
"""How results are shown: sentences, tables, charts, and documents for programs."""
