# SPDX-License-Identifier: Apache-2.0
"""What all errors have in common whose message is meant for whoever typed a command."""


class UserError(Exception):
    """The message says in one line what is wrong and what to do; a command shows nothing else."""
