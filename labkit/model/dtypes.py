"""The dtypes that weights, activations and caches come in, by the short names that knobs and costs use."""

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8}
