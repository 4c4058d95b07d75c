"""Convert a checkpoint to GGUF, by way of a model file that is deleted afterwards.

So every check and every byte is that of the two conversions, and both need little memory. The price is disk space:
while it runs, the model is there twice. Whether GGUF can have the model is found out first.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from rwkv_np import arguments
from rwkv_np.conversion.checkpoint import open_checkpoint
from rwkv_np.conversion.convert import Converted, Progress, convert
from rwkv_np.conversion.folder import is_repository
from rwkv_np.conversion.to_gguf import architecture_of, check_vocabulary, to_gguf
from rwkv_np.errors import PathLike
from rwkv_np.files.output import check_destination


def checkpoint_to_gguf(
    source: PathLike,
    destination: PathLike,
    data_type: str = "FP16",
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Converted:
    """Write the RWKV checkpoint `source` as a GGUF file of "FP16" or "FP32" matrices.

    Raises  as `convert` and `to_gguf`
    """
    source, destination = arguments.path("source", source), arguments.path("destination", destination)
    local = None if is_repository(source) else source
    check_destination(destination, local, overwrite)
    checkpoint = open_checkpoint(source)
    architecture_of(source, checkpoint.record)
    sizes = checkpoint.record.sizes({planned.name: planned.shape for planned in checkpoint.plan})
    check_vocabulary(source, sizes.vocab_size)
    with tempfile.TemporaryDirectory(prefix=".converting-", dir=os.path.dirname(destination) or ".") as folder:
        # The name of the model is in the metadata.
        between = Path(folder) / f"{Path(source).stem if local else Path(source).name}.bin"
        convert(source, between, data_type, progress=progress)
        return to_gguf(between, destination, overwrite=overwrite, progress=progress)
