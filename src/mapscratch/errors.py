# SPDX-License-Identifier: Apache-2.0
"""What all errors have in common whose message is meant for whoever typed a command."""

from typing import ClassVar


class UserError(Exception):
    """The message says in one line what is wrong and what to do; a command shows nothing else.

    Attributes:
        exit_status: that the command then ends with.
    """

    exit_status: ClassVar[int] = 2
