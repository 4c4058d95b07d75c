"""The format of a model's head, the matrix that computes the logits.

Quantizers leave it in FP16, so in a small quantized model it is most of the bytes that are read per token:
half of them in a 169M model in Q4_1. As Q8_0 it has half as many bytes, and the model is faster accordingly.
The cost was measured (`rwkv-np evaluate --both-heads`) on trained models: a mean KL divergence of 3.1e-5 on
the demo model, with 4.5M weights and a vocabulary of 4096, whatever type the rest has, and 5.7e-5 on a model
with 660K weights and a vocabulary of 256; 1e-4 was the limit. This is ten times the cost of Q8_0 for all other
matrices, and an eighth of the cost of Q4_1; most of it comes from rounding the input vector of the head.
So a quantized model converts its head to Q8_0 by default, and a float model leaves it as in the file:
its user wants no rounding.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rwkv_np.files.opened import InMemory
from rwkv_np.files.parameter import Parameter
from rwkv_np.files.quants import by_name

NAME = "head.weight"
_Q8_0 = by_name("Q8_0")


def can_be_q8_0(head: Parameter) -> bool:
    """Whether the head is a float matrix whose rows are whole blocks."""
    assert _Q8_0 is not None
    return not head.data_type.format.is_quantized and head.shape[1] % _Q8_0.format.block_size == 0


def loaded(parameters: Mapping[str, Parameter], as_q8_0: bool) -> Parameter:
    """The head in the format for use: as in the file, or Q8_0 if its numbers can be converted."""
    head = parameters[NAME]
    return (_in_q8_0(head) or head) if as_q8_0 and can_be_q8_0(head) else head


def _in_q8_0(parameter: Parameter) -> Parameter | None:
    """The same matrix in Q8_0 blocks, converted a few rows at a time; None if a scale is too large for FP16."""
    from rwkv_np.kernels.matmul import quantize  # imports numba

    assert _Q8_0 is not None
    n_rows, n_in = parameter.shape
    size = _Q8_0.format.block_size
    blocks = np.empty((n_rows, n_in // size), _Q8_0.format.block)
    for rows, w in parameter.chunks(2**19):
        quants, scales = quantize(w)
        if not (np.abs(scales) < 65520).all():  # for float32 numbers beyond 8 million, inf and NaN
            return None
        blocks["d"][rows] = scales
        blocks["qs"][rows] = quants.reshape(len(w), -1, size)
    return Parameter(parameter.name, parameter.shape, _Q8_0, InMemory(blocks.view(np.uint8).reshape(-1)))
