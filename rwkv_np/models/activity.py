"""How much of the feed-forward layers a model reads: the counts that the kernels keep, as shares and bytes.

The squared ReLU leaves most hidden channels zero, and a token alone reads only the columns of the value matrix that
belong to the others (kernels/column_products.py). So a token reads fewer bytes than the weights have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rwkv_np.kernels.column_products import COUNTS_SIZE
from rwkv_np.kernels.layout import BLOCK
from rwkv_np.models.places import Record


class Activity(NamedTuple):
    """Means over the tokens that were read alone, and over the layers.

    tokens             how many tokens these are
    channels, blocks   share of hidden channels that are not zero, and of blocks of 32 with such a channel
    bytes_read         bytes of weights that a token read
    """

    tokens: int
    channels: float
    blocks: float
    bytes_read: float


def measured(scratch: np.ndarray, records: Sequence[Record], n_bytes: int) -> Activity | None:
    """The activity of a model with `n_bytes` of weights; None if no matrix is stored by columns, or no token was read.

    scratch  the buffer in which the counts are, uint8
    """
    shares, not_read, n_tokens = [], 0.0, 0
    for record in records:
        counts = scratch[record.start : record.start + 8 * COUNTS_SIZE].view(np.int64)
        n_tokens = int(counts[0])
        if not n_tokens:
            return None
        n_columns, n_blocks, read_columns, read_blocks = (float(n) / n_tokens for n in counts[1:])
        shares.append((n_columns / (record.n_blocks * BLOCK), n_blocks / record.n_blocks))
        all_bytes = record.columns.tile_bytes(record.n_blocks)
        not_read += record.n_tiles * (all_bytes - record.columns.n_bytes_read(read_columns, read_blocks))
    if not records:
        return None
    channels, blocks = np.mean(shares, axis=0)
    return Activity(n_tokens, float(channels), float(blocks), n_bytes - not_read)
