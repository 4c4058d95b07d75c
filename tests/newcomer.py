"""Run the tests in the environment of a new user: an empty home folder, no settings, no screen size.

The settings of the developer, or a cache of an earlier run, must not decide whether the tests pass. So the
process sets these variables before a test is imported (libraries read them at import), and child processes
inherit them. Two things stay: compiled kernels, which take minutes to make and depend only on their sources,
are at their usual place; and RWKV_NP_KERNELS, so that the tests can run on another path of the kernels.
"""

import os
import shutil
import signal
import site
import tempfile
from pathlib import Path

from rwkv_np.kernels import cache, dispatch

# Names or prefixes of variables: our settings, languages, folders, screens, and libraries that we use.
FOREIGN = (
    "RWKV_", "LC_", "LANG", "XDG_", "COLUMNS", "LINES", "TERM", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "INPUTRC",
    "PROMPT_TOOLKIT_", "PYTHONIOENCODING", "PYTHONUTF8", "PYTHONCOERCECLOCALE", "PYTHONWARNINGS", "HF_", "HUGGINGFACE_",
    "TQDM_", "MPL", "MATPLOTLIB", "PROMPT_COMMAND", "BASH_ENV",
)  # fmt: skip
KEPT = (dispatch.ENV,)


def environment(home: Path) -> dict[str, str]:
    """The environment variables of a new user with that home folder."""
    kept = {name: value for name, value in os.environ.items() if name in KEPT or not name.startswith(FOREIGN)}
    return kept | {
        "HOME": str(home), "XDG_STATE_HOME": str(home / "state"), "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_CACHE_HOME": str(home / "cache"), "RWKV_NP_CACHE": str(_own_cache(home)),
        "PYTHONUSERBASE": site.getuserbase(), "HYPOTHESIS_STORAGE_DIRECTORY": str(home / "hypothesis"),
        "LANG": "C.UTF-8", "TERM": "xterm-256color",
    }  # fmt: skip


def _own_cache(home):
    """Make a cache folder that contains only a link to the usual place of the kernels."""
    kernels, own = cache.folder(), home / "cache" / "rwkv-np"
    if kernels is None:
        return own
    own.mkdir(parents=True, exist_ok=True)
    link = own / kernels.name
    try:
        link.exists() or link.symlink_to(kernels.resolve(), target_is_directory=True)
    except OSError:  # Windows requires a privilege for links
        return kernels.parent
    return own


class Newcomer:
    """pytest plugin: set a new user's environment, and restore the variables at the end."""

    def __init__(self):
        self._before, self._home = dict(os.environ), Path(tempfile.mkdtemp(prefix="rwkv-np-home-")).resolve()
        self._replace(environment(self._home))
        # A shell starts background processes with Ctrl-C ignored, and children would inherit that.
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self._handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}

    def pytest_runtest_teardown(self):
        """A command that ran in this process has set its own signal handlers; they would keep pytest from stopping."""
        for number, handler in self._handlers.items():
            if signal.getsignal(number) != handler and handler is not None:
                signal.signal(number, handler)

    def pytest_unconfigure(self):
        self._replace(self._before)
        shutil.rmtree(self._home, ignore_errors=True)

    def _replace(self, variables):
        os.environ.clear()
        os.environ.update(variables)
