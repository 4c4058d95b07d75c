"""How a model keeps its head, the matrix that gives each token of the vocabulary its logit.

Quantizers leave it in FP16, so in a small quantized model it is most of the bytes that are read for a
token: half of a 169M one in Q4_1. Kept as Q8_0 it is half as many, and the model faster by that.
What it costs was measured (`rwkv-np evaluate --both-heads`) on trained models: a mean KL divergence of
3.1e-5 on the demo model, of 4.5M weights and a vocabulary of 4096, whatever type the rest has, and 5.7e-5
on one of 660K and 256; 1e-4 was the limit. It is ten times what Q8_0 costs for all the rest, and an eighth
of what Q4_1 does; most of it comes from rounding the vector that the head is multiplied with.
So a quantized model keeps its head as Q8_0 unless told otherwise, and a float model as it is in the
file: its user wants no rounding.
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
    """Whether it is a float matrix whose rows are whole blocks."""
    assert _Q8_0 is not None
    return not head.data_type.format.is_quantized and head.shape[1] % _Q8_0.format.block_size == 0


def loaded(parameters: Mapping[str, Parameter], as_q8_0: bool) -> Parameter:
    """The head as a model keeps it: as in the file, or in Q8_0 where that can hold its numbers."""
    head = parameters[NAME]
    return (_in_q8_0(head) or head) if as_q8_0 and can_be_q8_0(head) else head


def _in_q8_0(parameter: Parameter) -> Parameter | None:
    """The same matrix in Q8_0 blocks, made a few rows at a time; None where a scale is beyond FP16."""
    from rwkv_np.kernels.matmul import quantize  # imports numba

    assert _Q8_0 is not None
    n_rows, n_in = parameter.shape
    size = _Q8_0.format.block_size
    blocks = np.empty((n_rows, n_in // size), _Q8_0.format.block)
    for rows, w in parameter.chunks(2**19):
        quants, scales = quantize(w)
        if not (np.abs(scales) < 65520).all():  # of float32 numbers beyond 8 millions, of inf and NaN
            return None
        blocks["d"][rows] = scales
        blocks["qs"][rows] = quants.reshape(len(w), -1, size)
    return Parameter(parameter.name, parameter.shape, _Q8_0, InMemory(blocks.view(np.uint8).reshape(-1)))
