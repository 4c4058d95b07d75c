"""The 20B tokenizer's file from the Hugging Face cache, or downloaded into it once.

It is 2 MB and belongs to others, so it is not part of this package. If the file is next to the model,
this module is not used, and `huggingface_hub` is not imported.
"""

from __future__ import annotations

from collections.abc import Callable

from rwkv_np.errors import TokenizerError

REPOSITORY = "EleutherAI/gpt-neox-20b"
FILE_NAME = "tokenizer.json"


def fetch_20b(notify: Callable[[str], None] | None = None) -> str:
    """The path of the 20B tokenizer.json; calls `notify` before it downloads.

    Raises TokenizerError: it is not in the cache and cannot be downloaded.
    """
    from huggingface_hub import hf_hub_download

    try:
        return hf_hub_download(REPOSITORY, FILE_NAME, local_files_only=True)
    except OSError:  # LocalEntryNotFoundError is an OSError, in every release since 0.23
        pass
    if notify is not None:
        notify("Downloading the 20B tokenizer (2 MB, once) ...")
    try:
        return hf_hub_download(REPOSITORY, FILE_NAME)
    except Exception as error:  # depending on the release: errors of requests, httpx or its own, without a common base
        raise TokenizerError(
            "20B",
            f"the tokenizer cannot be downloaded ({_first_line(error)}). Get {FILE_NAME} of {REPOSITORY} on "
            "an online machine, then give it as --tokenizer PATH or put it next to the model as "
            "20B_tokenizer.json",
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
