"""Fetch `hf://owner/repo/path/to/file` from the Hugging Face hub, resuming where it broke off.

huggingface_hub does the work: cache, resume, progress, mirrors (the environment variable
HF_ENDPOINT). It is imported here and when it is needed, because it takes half a second.
"""

from __future__ import annotations

from rwkv_np.errors import DownloadError, InputError

SCHEME = "hf://"


def is_remote(source: str) -> bool:
    """Whether `source` names a file on the hub rather than one on this machine."""
    return source.startswith(SCHEME)


def fetch(source: str) -> str:
    """The path of the file that `source` (hf://owner/repo/file) names, downloaded once and kept."""
    owner, _, rest = source.removeprefix(SCHEME).partition("/")
    repo, _, name = rest.partition("/")
    if not (owner and repo and name):
        raise InputError(
            f"{source}: expected hf://OWNER/REPO/FILE, "
            "such as hf://BlinkDL/rwkv-4-raven/RWKV-4-Raven-3B-v12-Eng98%-Other2%-20230520-ctx4096.pth"
        )
    from huggingface_hub import hf_hub_download

    try:
        return hf_hub_download(f"{owner}/{repo}", name)
    except Exception as error:  # its own errors, and those of whichever HTTP client it uses
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DownloadError(
            f"{source}: could not be fetched: {reason}. Look at the name and the network and run the "
            "command again (it resumes), or download the file with a browser and give its path"
        ) from error
