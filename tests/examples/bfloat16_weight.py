# SPDX-License-Identifier: Apache-2.0
"""A bfloat16 weight of a safetensors file as float32, which NumPy has no type to read."""

import json
import sys

import mapscratch

path, name = sys.argv[1:]

with open(path, "rb") as file:
    length = int.from_bytes(file.read(8), "little")
    tensor = json.loads(file.read(length))[name]
weight = mapscratch.array(path, "f4", offset=8 + length + tensor["data_offsets"][0],
                          shape=tensor["shape"], source="bfloat16")  # fmt: skip

print(weight[:100].mean(), weight.shape)
