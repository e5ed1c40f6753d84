# SPDX-License-Identifier: Apache-2.0
"""Pickles of former versions: they name modules and functions, wherever these are now."""

from __future__ import annotations

import base64
import os
import pickle
import pickletools
import zlib
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

# Made by 0.1.0 when arrays.py and cache.py were single files: pickle.dumps([a[100:900:7], a]) of
# array(PATH, "f4", source=">i2", scale=0.5, zero=3).
PATH = "@" * 200
PICKLED = zlib.decompress(
    base64.b85decode(
        "c-"
        "q}kze~eF6uzWMTcwMOKfp<fREG>A;voL&*3b;rRZ4QbaKSbSmjtXJ)FEi)2BELGIEa6Zi{R+!=wG2;l8VI&f}?LZ"
        "-reK--gobNJ!RO;p)`)5!e=_BA7EyNm}(|tW;Xy{XfopY#DxJ=_Mc^hddl!o&M-"
        "d$ruLGg;S($%E9a09KkWXKfZF|C8P%T(S4D(YH{Nb<=D6xc9lr})ZG~N*h);9bUWfkW1sp&{&v9uB48y3si%1V0g"
        "<$EZ{+f${OI6?tV^g%9lgJM=L1_^tra9g4B8JIf#+;3l7P;)Kjd$4op@TszK0nF)X_MN(W_!eWCM?Pa$z2p?)9+|"
        "a>@lKsqIT${5a1=T3D|RkkVQBYK$_<Tx0MwKpraV7k_DM2Nta?sblRI=I%#QAWxra?cIjmY#FeY3gn0qbC0b4x>G"
        "C%|=Xbu*LZgh&YJ2z?j3hB#kwlik6*CGw5H9jOBX$%JAeIL8Ye^4c&=-X*fATaGMVhNnWn`|d2+gJBm1rM0YeEA"
    )
)
NAMED = {
    ("mapscratch.arrays", "ArraySpec"),
    ("mapscratch.arrays", "_reopen"),
    ("mapscratch.cache", "_empty_cache"),
    ("mapscratch.fixups.arrays", "ByteSwap"),
    ("mapscratch.fixups.arrays", "Cast"),
    ("mapscratch.fixups.arrays", "Scale"),
    ("mapscratch.fixups.arrays", "_unpickle_compiled"),
    ("mapscratch.fixups.arrays", "_unpickle_python"),
    ("mapscratch.fixups.numbers", "SourceType"),
}


def test_an_array_that_a_former_version_has_pickled(lazyfree: str, tmp_path: Path) -> None:
    path = str(tmp_path) + "values".rjust(200 - len(str(tmp_path)), "/")
    np.arange(-500, 500, dtype=">i2").tofile(path)
    os.utime(path, ns=(1, 1_700_000_000_000_000_000))
    view, whole = pickle.loads(PICKLED.replace(PATH.encode(), path.encode()))
    expected = np.arange(-500, 500).astype("f4") * 0.5 + 3
    assert np.array_equal(whole, expected)
    assert np.array_equal(view, expected[100:900:7])
    assert np.shares_memory(view, whole)


def test_the_sample_names_what_it_is_to_show() -> None:
    names = {argument for _, argument, _ in pickletools.genops(PICKLED) if argument is not None}
    assert {"mapscratch.arrays", "_reopen"} <= names


@pytest.mark.parametrize(("module", "name"), sorted(NAMED))
def test_what_pickles_of_former_versions_name_is_there(module: str, name: str) -> None:
    assert callable(getattr(import_module(module), name))
