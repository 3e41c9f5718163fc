"""The words that settings choose from, where no register can add one."""

from __future__ import annotations

from typing import Literal

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
OnBadRow = Literal["error", "skip"]
Quantization = Literal["4bit", "8bit"]
StoreDtype = Literal["float32", "float16", "bfloat16", "int8"]
Normalization = Literal["layer", "none", "unit"]
Similarity = Literal["cosine", "dot"]
Side = Literal["both", "query"]
Decomposition = Literal["loss", "position"]
Negative = Literal["auto", "keep", "drop", "retain"]
Position = Literal["prefix", "suffix", "inside"]
Sampling = Literal["stratified", "random", "uncertain"]
