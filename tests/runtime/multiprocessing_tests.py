# SPDX-License-Identifier: Apache-2.0
"""CPython's own tests of multiprocessing, by fork; some installations lack the file for them."""

import unittest

import test._test_multiprocessing as tests

tests.install_tests_in_module_dict(globals(), "fork")

if __name__ == "__main__":
    unittest.main()
