"""Reverse-mode differentiation of the equations that RWKV's layers are made of, on arrays of NumPy.

An operation computes its result and writes on a tape how a gradient with respect to the result becomes gradients
with respect to its inputs; `Tape.backward` reads the tape from its end. Only activations have gradients: weights are
plain arrays. The equations themselves are those of `kernels/equations.py`, the recurrences are kernels.

A tape without steps (`Tape(is_recording=False)`) keeps nothing, so that arrays are freed while a layer is computed.

Shapes: a value is (T, C), T tokens of one sequence from its start; where a function says so, (T, H, N).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rwkv_np.kernels import equations, wkv4_backward, wkv5_backward, wkv7_backward

Backward = Callable[[np.ndarray], None]
"""Takes the gradient with respect to a result and adds to those of the inputs."""


class Tape:
    """The operations of one sequence in one layer, in their order.

    seen  called with (name of a matrix, gradient (T, n_out) with respect to its output) during `backward`
    """

    def __init__(self, seen: Callable[[str, np.ndarray], None] | None = None, *, is_recording: bool = True) -> None:
        self.seen, self.is_recording = seen, is_recording
        self._steps: list[tuple[Value, Backward]] = []

    def value(self, array: np.ndarray, back: Backward | None = None) -> Value:
        """A value with that content: an input, or a result whose gradient is passed to `back`."""
        value = Value(array, self)
        if back and self.is_recording:
            self._steps.append((value, back))
        return value

    def backward(self) -> None:
        """From the gradients that were added to some values to those of all values before them.

        A step is forgotten when it is done, and with it the arrays that only it needed.
        """
        while self._steps:
            value, back = self._steps.pop()
            if value.gradient is not None:
                back(value.gradient)


class Value:
    """An array, and the gradient of the loss with respect to it, as far as it was added up."""

    __slots__ = ("array", "gradient", "tape")

    def __init__(self, array: np.ndarray, tape: Tape) -> None:
        self.array, self.tape = array, tape
        self.gradient: np.ndarray | None = None

    def add(self, gradient: np.ndarray) -> None:
        """Add to the gradient. The array may be shared with other values: it is never changed."""
        self.gradient = gradient if self.gradient is None else self.gradient + gradient

    def __add__(self, other: Value | np.ndarray) -> Value:
        if isinstance(other, np.ndarray):
            return self.tape.value(self.array + other, self.add)

        def back(g: np.ndarray) -> None:
            self.add(g)
            other.add(g)

        return self.tape.value(self.array + other.array, back)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def reshape(self, *shape: int) -> Value:
        """The same numbers in another shape."""
        return self.tape.value(self.array.reshape(shape), lambda g: self.add(g.reshape(self.shape)))

    def columns(self, part: slice) -> Value:
        """Some columns of (T, C)."""

        def back(g: np.ndarray) -> None:
            whole = np.zeros_like(self.array)
            whole[:, part] = g
            self.add(whole)

        return self.tape.value(self.array[:, part], back)

    def __mul__(self, other: Value | np.ndarray) -> Value:
        if isinstance(other, np.ndarray):
            return self.tape.value(self.array * other, lambda g: self.add(g * other))

        def back(g: np.ndarray) -> None:
            self.add(g * other.array)
            other.add(g * self.array)

        return self.tape.value(self.array * other.array, back)


# --- matrices and norms ----------------------------------------------------------------------------


def linear(x: Value, weight: np.ndarray, name: str) -> Value:
    """W x for each token; in the backward pass the tape's `seen` gets the gradient with respect to it.

    Shapes   weight (n_out, n_in): (T, n_in) -> (T, n_out)
    """

    def back(g: np.ndarray) -> None:
        if x.tape.seen:
            x.tape.seen(name, g)
        x.add(g @ weight)

    return x.tape.value(x.array @ weight.T, back)


def layer_norm(x: Value, weight: np.ndarray, bias: np.ndarray) -> Value:
    """`equations.layer_norm`."""
    return _norm(x, weight, bias, equations.EPSILON)


def group_norm(x: Value, weight: np.ndarray, bias: np.ndarray, epsilon: float) -> Value:
    """`equations.group_norm`, (T, H, N)."""
    return _norm(x, weight, bias, epsilon)


def _norm(x: Value, weight: np.ndarray, bias: np.ndarray, epsilon: float) -> Value:
    centered = x.array - x.array.mean(axis=-1, keepdims=True)
    scale = 1 / np.sqrt(np.square(centered).mean(axis=-1, keepdims=True) + x.array.dtype.type(epsilon))
    y = centered * scale

    def back(g: np.ndarray) -> None:
        g = g * weight
        along = (g * y).mean(axis=-1, keepdims=True)
        x.add(scale * (g - g.mean(axis=-1, keepdims=True) - along * y))

    return x.tape.value(y * weight + bias, back)


# --- channel by channel ----------------------------------------------------------------------------


def token_shift(x: Value) -> Value:
    """The token before each; zeros before the first."""

    def back(g: np.ndarray) -> None:
        x.add(np.concatenate([g[1:], np.zeros_like(g[:1])]))

    return x.tape.value(equations.token_shift(x.array, np.zeros_like(x.array[0])), back)


def lerp(x: Value, other: Value, share: Value | np.ndarray) -> Value:
    """x, moved by `share` towards the other: `equations.lerp`; the share may be a value too."""
    part = share if isinstance(share, np.ndarray) else share.array

    def back(g: np.ndarray) -> None:
        moved = g * part
        x.add(g - moved)
        other.add(moved)
        if isinstance(share, Value):
            share.add(g * (other.array - x.array))

    return x.tape.value(equations.lerp(x.array, other.array, part), back)


def mix(x: Value, before: Value, share: np.ndarray) -> Value:
    """`equations.mix`, where the share is that of x."""
    return lerp(before, x, share)


def sigmoid(x: Value) -> Value:
    """`equations.sigmoid`."""
    y = equations.sigmoid(x.array)
    return x.tape.value(y, lambda g: x.add(g * y * (1 - y)))


def silu(x: Value) -> Value:
    """`equations.silu`."""
    return x * sigmoid(x)


def tanh(x: Value) -> Value:
    """The hyperbolic tangent."""
    y = np.tanh(x.array)
    return x.tape.value(y, lambda g: x.add(g * (1 - y * y)))


def decay6(x: Value) -> Value:
    """RWKV-6's decay of a token, exp(-exp(x))."""
    rate = np.exp(np.minimum(x.array, 80))  # where the decay is 0 in any case; 0 times inf is not a number
    y = np.exp(-rate)
    return x.tape.value(y, lambda g: x.add(g * -(rate * y)))


def decay7(x: Value) -> Value:
    """`equations.decay7`."""
    factor, share = x.array.dtype.type(-0.606531), equations.sigmoid(x.array)
    y = np.exp(factor * share)
    return x.tape.value(y, lambda g: x.add(g * y * (factor * share * (1 - share))))


def squared_relu(x: Value) -> Value:
    """`equations.squared_relu`."""
    positive = np.maximum(x.array, 0)
    return x.tape.value(np.square(positive), lambda g: x.add(g * (2 * positive)))


def unit_length(x: Value) -> Value:
    """`equations.unit_length`, (T, H, N)."""
    length = np.sqrt(np.square(x.array).sum(axis=-1, keepdims=True))
    scale = 1 / np.maximum(length, x.array.dtype.type(1e-12))
    y = x.array * scale
    return x.tape.value(y, lambda g: x.add(scale * (g - (g * y).sum(axis=-1, keepdims=True) * y)))


def bonus7(r: Value, k: Value, v: Value, r_k: np.ndarray) -> Value:
    """(The sum of r k r_k over a head) v: RWKV-7's bonus for a token's own v; (T, H, N), r_k (H, N)."""
    weighed = k.array * r_k
    share = (r.array * weighed).sum(axis=-1, keepdims=True)

    def back(g: np.ndarray) -> None:
        to_share = (g * v.array).sum(axis=-1, keepdims=True)
        r.add(to_share * weighed)
        k.add(to_share * (r.array * r_k))
        v.add(g * share)

    return r.tape.value(share * v.array, back)


# --- recurrences -----------------------------------------------------------------------------------


def wkv4(k: Value, v: Value, w: np.ndarray, u: np.ndarray) -> Value:
    """`equations.wkv4` from an empty state."""
    out, states = wkv4_backward.forward(k.array, v.array, w, u)

    def back(g: np.ndarray) -> None:
        gk, gv = wkv4_backward.backward(k.array, v.array, w, u, out, states, g)
        k.add(gk)
        v.add(gv)

    return k.tape.value(out, back)


def wkv5(r: Value, k: Value, v: Value, w: Value | np.ndarray, u: np.ndarray) -> Value:
    """`equations.wkv5` from an empty state; w is a value (T, H, N) in RWKV-6."""
    decay = w if isinstance(w, np.ndarray) else w.array
    out, kept = wkv5_backward.forward(r.array, k.array, v.array, decay, u)

    def back(g: np.ndarray) -> None:
        gradients = wkv5_backward.backward(r.array, k.array, v.array, decay, u, kept, g)
        for value, gradient in zip((r, k, v, w), gradients):
            if isinstance(value, Value):
                value.add(gradient)

    return r.tape.value(out, back)


def wkv7(r: Value, w: Value, k: Value, v: Value, kk: Value, a: Value) -> Value:
    """`equations.wkv7` from an empty state."""
    inputs = (r, w, k, v, kk, a)
    arrays = [x.array for x in inputs]
    out, kept = wkv7_backward.forward(*arrays)

    def back(g: np.ndarray) -> None:
        for value, gradient in zip(inputs, wkv7_backward.backward(*arrays, kept, g)):
            value.add(gradient)

    return r.tape.value(out, back)
