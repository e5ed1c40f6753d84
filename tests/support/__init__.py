# SPDX-License-Identifier: Apache-2.0
"""What the tests share: files of known content, fresh interpreters, forbidden system calls."""
