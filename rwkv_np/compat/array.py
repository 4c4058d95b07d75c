"""Arrays for scripts that expect tensors: NumPy arrays, with the few methods that scripts call on logits and states.

`out.detach().cpu().numpy()` is in every second script. Code that needs PyTorch itself (`torch.topk(out, 5)`) must call
`torch.from_numpy(out.numpy())` first, which does not copy.
"""

from __future__ import annotations

import numpy as np


class Array(np.ndarray):
    """A NumPy array that also has the methods of a CPU tensor."""

    def detach(self) -> Array:
        """The array itself: there are no gradients."""
        return self

    def cpu(self) -> Array:
        """The array itself: it is already on the CPU."""
        return self

    def float(self) -> Array:
        """The array itself: it is float32."""
        return self

    def contiguous(self) -> Array:
        """The array itself if it is contiguous, otherwise a contiguous copy."""
        return np.ascontiguousarray(self).view(Array)

    def clone(self) -> Array:
        """A copy."""
        return self.copy()

    def numpy(self) -> np.ndarray:
        """The same memory as a plain NumPy array."""
        return self.view(np.ndarray)


def plain(x: object) -> np.ndarray:
    """A tensor of any package, or any array-like object, as a NumPy array; it shares the memory if possible."""
    as_numpy = getattr(x, "numpy", None)
    return np.asarray(as_numpy() if callable(as_numpy) and not isinstance(x, np.ndarray) else x)
