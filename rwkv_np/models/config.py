"""The sizes and types of a model, from the header of its file, checked against its parameters."""

from __future__ import annotations

from dataclasses import dataclass

from rwkv_np.kernels.equations import HEAD_EPSILON
from rwkv_np.models.architecture import Architecture, Sizes


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Sizes):
    """Sizes of a model, and the header of its file.

    record      the architecture: everything that depends on the version of RWKV
    data_type   the header's: the type of most matrices
    data_types  the types that occur, in order of their codes
    head_epsilon  of the head norm (RWKV-5 and later); not stored in files, see models/v5.py
    """

    record: Architecture
    file_version: int
    data_type: str
    data_types: tuple[str, ...]
    head_epsilon: float = HEAD_EPSILON

    @property
    def architecture(self) -> str:
        """The name of the version: "v4"."""
        return self.record.name

    @property
    def is_quantized(self) -> bool:
        """Whether most matrices have a quantized type."""
        return self.data_type not in ("FP16", "BF16", "FP32")
