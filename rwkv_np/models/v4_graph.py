"""RWKV-4's graph as one parallel region: all layers of a run of tokens, without leaving Numba.

The equations are those of `v4.py`, phase by phase; there they are to be read. Here every phase
is a list of items that threads take (32 channels of all tokens, or a few tokens); a phase begins
when the one before is done. A layer has six:

    norm, mix      items: runs of tokens     writes the vectors that r, k and v take
    r, k, v, wkv   items: 32 channels        writes the vector that the output matrix takes
    output         items: 32 channels        adds to x
    norm, mix      items: runs of tokens
    key, gate      items: 32 rows of either  writes squared ReLUs, and the sigmoid of r
    value          items: 32 channels        adds to x

One token and a prompt take the same way, so they give the same bits, however a prompt is cut.
C and F stand for the channels of x and of the feed-forward layer, in whole blocks of 32.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import prange

from rwkv_np.kernels.activations import put_vector
from rwkv_np.kernels.cache import jit
from rwkv_np.kernels.layout import TILE_ROWS
from rwkv_np.kernels.matmul import multiply_tile
from rwkv_np.kernels.mixing import layer_norm_row, mix_row
from rwkv_np.kernels.pointers import address, beyond, copy_bytes
from rwkv_np.kernels.products import add_block, add_gated_block, sigmoid_block, squared_relu_block
from rwkv_np.kernels.threads import finish, next_item
from rwkv_np.kernels.wkv4 import wkv_block

# Rows of `Weights.vectors`, for each layer; ln0 and ln_out stand in a layer of their own behind.
LN1_W, LN1_B, MIX_K, MIX_V, MIX_R, DECAY, FIRST, LN2_W, LN2_B, FFN_MIX_K, FFN_MIX_R = range(11)
LN0_W, LN0_B, LN_OUT_W, LN_OUT_B = range(4)
# Rows of `Weights.matrices`, for each layer; the head stands behind the last.
KEY, VALUE, RECEPTANCE, OUTPUT, FFN_KEY, FFN_RECEPTANCE, FFN_VALUE = range(7)
N_MATRICES = 7
# Columns of `Weights.matrices`.
START, STRIDE, N_TILES, N_BLOCKS, WANTS, KERNELS = range(6)

PHASES = 6  # of a layer
HEAD_TILES = 4  # that a thread takes at once: there are hundreds
RUN = 8  # tokens that a thread normalizes together: its first token's predecessor comes on top


class Weights(NamedTuple):
    """All layers.

    tiles     every packed matrix, one behind the other, uint8
    matrices  (n_layer * 7 + 1, 5 + len(COUNTS)) int64: where each lies, its shape, its kernels
    vectors   (n_layer + 1, 11, C) float32, zeros behind the channels of the model
    """

    tiles: np.ndarray
    matrices: np.ndarray
    vectors: np.ndarray
    n_embd: int


class Scratch(NamedTuple):
    """What a run of up to T tokens leaves between phases. Rows are vectors as matrices take them.

    x (T, C), gate (T, C), last (C,), normed (threads, 2, C), lanes (threads, 3 * T * 32): float32
    r, k, v, out (T, bytes for C), ffn (T, bytes for F): uint8
    """

    x: np.ndarray
    gate: np.ndarray
    last: np.ndarray
    normed: np.ndarray
    lanes: np.ndarray
    r: np.ndarray
    k: np.ndarray
    v: np.ndarray
    out: np.ndarray
    ffn: np.ndarray


@jit()
def _row(array, i):
    """The address of row i of a two-dimensional array."""
    return address(array, i * array.shape[1] * array.itemsize)


@jit()
def _vector(vectors, layer, which):
    return address(vectors, ((layer * vectors.shape[1]) + which) * vectors.shape[2] * 4)


@jit()
def _normed(scratch, rank, which):
    return address(scratch.normed, (2 * rank + which % 2) * scratch.x.shape[1] * 4)


@jit()
def _norm_token(weights, scratch, layer, first, token, rank):
    """Layer norm of a token, by the weights that stand at `first`, into this thread's scratch."""
    w, b = _vector(weights.vectors, layer, first), _vector(weights.vectors, layer, first + 1)
    out = _normed(scratch, rank, token)
    layer_norm_row(_row(scratch.x, token), w, b, weights.n_embd, scratch.x.shape[1], out)


@jit()
def _mix_token(weights, layer, share, matrix, x, before, rows, token):
    """Mix a token with its predecessor into the vector that a matrix takes."""
    entry = weights.matrices[layer * N_MATRICES + matrix]
    mix = _vector(weights.vectors, layer, share)
    mix_row(x, before, mix, entry[N_BLOCKS], entry[WANTS], _row(rows, token))


@jit()
def _norm_and_mix(team, phase, rank, n_tokens, weights, scratch, layer, last, is_time_mix):
    first = LN1_W if is_time_mix else LN2_W
    n_runs, n_done = (n_tokens + RUN - 1) // RUN, 0
    run = next_item(team, phase, rank, n_runs)
    while run >= 0:
        if run > 0:
            _norm_token(weights, scratch, layer, first, run * RUN - 1, rank)
        for token in range(run * RUN, min(n_tokens, (run + 1) * RUN)):
            _norm_token(weights, scratch, layer, first, token, rank)
            x, before = _normed(scratch, rank, token), _normed(scratch, rank, token + 1)
            if token == 0:
                before = last
            if is_time_mix:
                _mix_token(weights, layer, MIX_K, KEY, x, before, scratch.k, token)
                _mix_token(weights, layer, MIX_V, VALUE, x, before, scratch.v, token)
                _mix_token(weights, layer, MIX_R, RECEPTANCE, x, before, scratch.r, token)
            else:
                _mix_token(weights, layer, FFN_MIX_K, FFN_KEY, x, before, scratch.k, token)
                _mix_token(weights, layer, FFN_MIX_R, FFN_RECEPTANCE, x, before, scratch.r, token)
            if token == n_tokens - 1:
                # Not into the state yet: another thread may be mixing the first token with it.
                copy_bytes(x, scratch.last.nbytes, address(scratch.last, 0))
        n_done += 1
        run = next_item(team, phase, rank, n_runs)
    finish(team, phase, n_done, n_runs)


@jit()
def _remember(scratch, item, last):
    """Whoever has the first item of the next phase puts the last token's norm into the state."""
    if item == 0:
        copy_bytes(address(scratch.last, 0), scratch.last.nbytes, last)


@jit()
def _multiply(weights, matrix, tile, rows, n_tokens, out, out_stride):
    """out[t, :32] = the tile of a matrix times the vectors of all tokens."""
    entry = weights.matrices[matrix]
    start = address(weights.tiles, entry[START] + tile * entry[STRIDE])
    multiply_tile(
        entry[KERNELS:], start, address(rows, 0), rows.shape[1], entry[N_BLOCKS], n_tokens, out, out_stride
    )


@jit()
def _time_mix(team, phase, rank, n_tokens, weights, scratch, layer, last, wkv):
    matrix, n_tiles = layer * N_MATRICES, scratch.x.shape[1] // TILE_ROWS
    output = weights.matrices[matrix + OUTPUT]
    decay, first = _vector(weights.vectors, layer, DECAY), _vector(weights.vectors, layer, FIRST)
    n_done, tile = 0, next_item(team, phase, rank, n_tiles)
    while tile >= 0:
        _remember(scratch, tile, last)
        lanes, size = address(scratch.lanes, rank * scratch.lanes.shape[1] * 4), n_tokens * TILE_ROWS * 4
        k, v, r = lanes, beyond(lanes, size), beyond(lanes, 2 * size)
        _multiply(weights, matrix + KEY, tile, scratch.k, n_tokens, k, TILE_ROWS)
        _multiply(weights, matrix + VALUE, tile, scratch.v, n_tokens, v, TILE_ROWS)
        _multiply(weights, matrix + RECEPTANCE, tile, scratch.r, n_tokens, r, TILE_ROWS)
        wkv_block(
            lanes, n_tokens, decay, first, _vector(wkv, layer, 0), wkv.shape[2], tile,
            output[N_BLOCKS], output[WANTS], address(scratch.out, 0), scratch.out.shape[1],
        )  # fmt: skip
        n_done += 1
        tile = next_item(team, phase, rank, n_tiles)
    finish(team, phase, n_done, n_tiles)


@jit()
def _add_output(team, phase, rank, n_tokens, weights, scratch, layer, is_time_mix):
    n_channels = scratch.x.shape[1]
    lanes = address(scratch.lanes, rank * scratch.lanes.shape[1] * 4)
    n_done, tile = 0, next_item(team, phase, rank, n_channels // TILE_ROWS)
    while tile >= 0:
        x, gate = address(scratch.x, tile * TILE_ROWS * 4), address(scratch.gate, tile * TILE_ROWS * 4)
        if is_time_mix:
            _multiply(weights, layer * N_MATRICES + OUTPUT, tile, scratch.out, n_tokens, lanes, TILE_ROWS)
            add_block(lanes, n_tokens, x, n_channels)
        else:
            _multiply(weights, layer * N_MATRICES + FFN_VALUE, tile, scratch.ffn, n_tokens, lanes, TILE_ROWS)
            add_gated_block(lanes, n_tokens, gate, x, n_channels)
        n_done += 1
        tile = next_item(team, phase, rank, n_channels // TILE_ROWS)
    finish(team, phase, n_done, n_channels // TILE_ROWS)


@jit()
def _key_and_gate(team, phase, rank, n_tokens, weights, scratch, layer, last):
    matrix, n_channels = layer * N_MATRICES, scratch.x.shape[1]
    value, n_keys = weights.matrices[matrix + FFN_VALUE], weights.matrices[matrix + FFN_KEY, N_TILES]
    lanes = address(scratch.lanes, rank * scratch.lanes.shape[1] * 4)
    n_items = n_keys + n_channels // TILE_ROWS
    n_done, item = 0, next_item(team, phase, rank, n_items)
    while item >= 0:
        _remember(scratch, item, last)
        if item < n_keys:
            _multiply(weights, matrix + FFN_KEY, item, scratch.k, n_tokens, lanes, TILE_ROWS)
            squared_relu_block(
                lanes,
                n_tokens,
                item,
                value[N_BLOCKS],
                value[WANTS],
                address(scratch.ffn, 0),
                scratch.ffn.shape[1],
            )
        else:
            tile = item - n_keys
            _multiply(weights, matrix + FFN_RECEPTANCE, tile, scratch.r, n_tokens, lanes, TILE_ROWS)
            sigmoid_block(lanes, n_tokens, address(scratch.gate, tile * TILE_ROWS * 4), n_channels)
        n_done += 1
        item = next_item(team, phase, rank, n_items)
    finish(team, phase, n_done, n_items)


@jit()
def _read_layer(team, rank, n_tokens, weights, scratch, layer, shift, wkv):
    phase, last, ffn_last = 1 + PHASES * layer, _vector(shift, layer, 0), _vector(shift, layer, 1)
    _norm_and_mix(team, phase, rank, n_tokens, weights, scratch, layer, last, True)
    _time_mix(team, phase + 1, rank, n_tokens, weights, scratch, layer, last, wkv)
    _add_output(team, phase + 2, rank, n_tokens, weights, scratch, layer, True)
    _norm_and_mix(team, phase + 3, rank, n_tokens, weights, scratch, layer, ffn_last, False)
    _key_and_gate(team, phase + 4, rank, n_tokens, weights, scratch, layer, ffn_last)
    _add_output(team, phase + 5, rank, n_tokens, weights, scratch, layer, False)


@jit()
def _norm_embeddings(team, rank, n_tokens, weights, scratch):
    layer = weights.vectors.shape[0] - 1
    n_done, token = 0, next_item(team, 0, rank, n_tokens)
    while token >= 0:
        _norm_token(weights, scratch, layer, LN0_W, token, rank)
        copy_bytes(_normed(scratch, rank, token), scratch.last.nbytes, _row(scratch.x, token))
        n_done += 1
        token = next_item(team, 0, rank, n_tokens)
    finish(team, 0, n_done, n_tokens)


@jit()
def _norm_for_head(team, phase, rank, n_tokens, weights, scratch, first):
    layer = weights.vectors.shape[0] - 1
    head = weights.matrices[layer * N_MATRICES]
    n_done, token = 0, next_item(team, phase, rank, n_tokens - first)
    while token >= 0:
        _norm_token(weights, scratch, layer, LN_OUT_W, first + token, rank)
        put_vector(_normed(scratch, rank, first + token), head[N_BLOCKS], head[WANTS], _row(scratch.r, token))
        n_done += 1
        token = next_item(team, phase, rank, n_tokens - first)
    finish(team, phase, n_done, n_tokens - first)


@jit()
def _read_head(team, phase, rank, n_tokens, weights, scratch, logits):
    matrix = (weights.vectors.shape[0] - 1) * N_MATRICES
    n_tiles = weights.matrices[matrix, N_TILES]
    n_items, n_done = (n_tiles + HEAD_TILES - 1) // HEAD_TILES, 0
    item = next_item(team, phase, rank, n_items)
    while item >= 0:
        for tile in range(item * HEAD_TILES, min(n_tiles, (item + 1) * HEAD_TILES)):
            out = address(logits, tile * TILE_ROWS * 4)
            _multiply(weights, matrix, tile, scratch.r, n_tokens, out, logits.shape[1])
        n_done += 1
        item = next_item(team, phase, rank, n_items)
    finish(team, phase, n_done, n_items)


@jit()
def _read_on_one_thread(team, rank, n_tokens, weights, scratch, shift, wkv, logits):
    _norm_embeddings(team, rank, n_tokens, weights, scratch)
    for layer in range(shift.shape[0]):
        _read_layer(team, rank, n_tokens, weights, scratch, layer, shift, wkv)
    n_wanted, phase = logits.shape[0], 1 + PHASES * shift.shape[0]
    if n_wanted > 0:
        _norm_for_head(team, phase, rank, n_tokens, weights, scratch, n_tokens - n_wanted)
        _read_head(team, phase + 1, rank, n_wanted, weights, scratch, logits)


@jit(parallel=True, nogil=True)
def read_tokens(team, n_threads, n_tokens, weights, scratch, shift, wkv, logits):
    """Read n_tokens, whose embeddings stand in scratch.x, and give the last rows their logits.

    Shapes   team (n_phases(n_layer), ...) zeros; shift (n_layer, 2, C) and wkv (n_layer, 3, C)
             float32, changed in place; logits (0 .. n_tokens, V in whole tiles) float32
    """
    for i in prange(n_threads):
        rank = np.int64(i)  # Numba counts without sign in here, and would compile everything twice
        _read_on_one_thread(team, rank, n_tokens, weights, scratch, shift, wkv, logits)


def n_phases(n_layer: int) -> int:
    """Phases of a run of tokens: the embedding, the layers, and two of the head."""
    return 1 + PHASES * n_layer + 2
