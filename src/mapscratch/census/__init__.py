# SPDX-License-Identifier: Apache-2.0
"""What is on this machine: its libraries, and what its processes hold of them."""
