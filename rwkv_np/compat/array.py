"""Arrays where scripts expect tensors: NumPy's, with the few methods that scripts call on logits and states.

`out.detach().cpu().numpy()` is in every second script. Whatever needs PyTorch itself (`torch.topk(out, 5)`) wants
`torch.from_numpy(out.numpy())` first, which copies nothing.
"""

from __future__ import annotations

import numpy as np


class Array(np.ndarray):
    """A NumPy array that also answers to the names of a tensor on the CPU."""

    def detach(self) -> Array:
        """The array itself: there are no gradients."""
        return self

    def cpu(self) -> Array:
        """The array itself: it is in the computer's memory."""
        return self

    def float(self) -> Array:
        """The array itself: it is float32."""
        return self

    def contiguous(self) -> Array:
        """The array itself where it is contiguous, else a copy that is."""
        return np.ascontiguousarray(self).view(Array)

    def clone(self) -> Array:
        """A copy."""
        return self.copy()

    def numpy(self) -> np.ndarray:
        """The same memory as a plain NumPy array."""
        return self.view(np.ndarray)


def plain(x: object) -> np.ndarray:
    """A tensor of any package, or what NumPy makes an array of, as a NumPy array; the same memory where it can be."""
    as_numpy = getattr(x, "numpy", None)
    return np.asarray(as_numpy() if callable(as_numpy) and not isinstance(x, np.ndarray) else x)
