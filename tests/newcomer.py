"""The tests run as somebody who came today: a home of their own, no settings, no size of a screen.

A setting of whoever runs the tests, or what an earlier run left in a cache, must not decide whether they
pass. So the process takes these variables before a test is imported (libraries read theirs at that time),
and the processes that it starts inherit them. Two things stay. Compiled kernels, which take minutes and
follow from their sources, are where they always are; and RWKV_NP_KERNELS, so that all of this can be run
on another path of the kernels.
"""

import os
import shutil
import signal
import site
import tempfile
from pathlib import Path

from rwkv_np.kernels import cache, dispatch

# Names, or how they begin: of our settings, of languages, folders and screens, and of the libraries that we call.
FOREIGN = (
    "RWKV_", "LC_", "LANG", "XDG_", "COLUMNS", "LINES", "TERM", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "INPUTRC",
    "PROMPT_TOOLKIT_", "PYTHONIOENCODING", "PYTHONUTF8", "PYTHONCOERCECLOCALE", "PYTHONWARNINGS", "HF_", "HUGGINGFACE_",
    "TQDM_", "MPL", "MATPLOTLIB", "PROMPT_COMMAND", "BASH_ENV",
)  # fmt: skip
KEPT = (dispatch.ENV,)


def environment(home: Path) -> dict[str, str]:
    """The variables of a new user whose home is that folder."""
    kept = {name: value for name, value in os.environ.items() if name in KEPT or not name.startswith(FOREIGN)}
    return kept | {
        "HOME": str(home), "XDG_STATE_HOME": str(home / "state"), "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_CACHE_HOME": str(home / "cache"), "RWKV_NP_CACHE": str(_own_cache(home)),
        "PYTHONUSERBASE": site.getuserbase(), "HYPOTHESIS_STORAGE_DIRECTORY": str(home / "hypothesis"),
        "LANG": "C.UTF-8", "TERM": "xterm-256color",
    }  # fmt: skip


def _own_cache(home):
    """An empty cache but for the kernels, which are a link to their usual place."""
    kernels, own = cache.folder(), home / "cache" / "rwkv-np"
    if kernels is None:
        return own
    own.mkdir(parents=True, exist_ok=True)
    link = own / kernels.name
    try:
        link.exists() or link.symlink_to(kernels.resolve(), target_is_directory=True)
    except OSError:  # Windows wants a privilege for links
        return kernels.parent
    return own


class Newcomer:
    """pytest's plugin: this process becomes a new user's, and has its own variables back at the end."""

    def __init__(self):
        self._before, self._home = dict(os.environ), Path(tempfile.mkdtemp(prefix="rwkv-np-home-")).resolve()
        self._replace(environment(self._home))
        # A shell starts what it puts in the background deaf to Ctrl-C, and children would inherit that.
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self._handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}

    def pytest_runtest_teardown(self):
        """A command that was run in this process has set its own handlers; they would keep pytest from ending."""
        for number, handler in self._handlers.items():
            if signal.getsignal(number) != handler and handler is not None:
                signal.signal(number, handler)

    def pytest_unconfigure(self):
        self._replace(self._before)
        shutil.rmtree(self._home, ignore_errors=True)

    def _replace(self, variables):
        os.environ.clear()
        os.environ.update(variables)
