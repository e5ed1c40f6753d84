# SPDX-License-Identifier: Apache-2.0
"""What experiments are made of: processes, strategies, timers, the state of the machine."""
