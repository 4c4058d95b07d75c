"""llama.cpp's own tests of its server, against a server of ours with the demo model.

    pip download --no-binary :all: --no-deps llama-cpp-python    # its source has them; unpack it
    pip install pytest requests filelock wget openai
    python tests/clients/llama_tests.py .../vendor/llama.cpp/tools/server/tests [--python PYTHON]

These tests talk to any server (DEBUG_EXTERNAL), but most expect something that another program, or another model, does
not have. TESTS names those that test OpenAI's interface; the others are left out for these reasons:

    the text of the model stories260K, or its numbers of tokens; system_fingerprint beginning with "b"
    llama.cpp's own interface: /completion, /props, /slots, /infill, /apply-template, content in the reply, GBNF,
        timings, progress, aliases, __verbose, fields that we refuse because they would have no effect (id_slot)
    a first delta whose content is null (ours is "", as OpenAI's), a context size (a state has none), sw.js
    tokens that are joined to exactly the content: ours have the space after "Assistant:", the content has not
    two answers of the assistant one after the other (we accept them)
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click

KEY = "sk-this-is-the-secret-key"
_CHAT, _SECURITY = "unit/test_chat_completion.py", "unit/test_security.py"
TESTS = {
    "gpt-3.5-turbo-instruct": (
        f"{_CHAT}::test_chat_template_continue_final_message_mutual_exclusion",
        f"{_CHAT}::test_completion_with_response_format",
        f"{_CHAT}::test_completion_with_invalid_grammar",
        f"{_CHAT}::test_invalid_chat_completion_req",
        f"{_CHAT}::test_logit_bias",
        "unit/test_tokenize.py::test_tokenize_detokenize",
        "unit/test_basic.py::test_server_start_simple",
    ),
    "gpt-3.5-turbo": (
        f"{_SECURITY}::test_access_public_endpoint",
        f"{_SECURITY}::test_incorrect_api_key",
        f"{_SECURITY}::test_openai_library_correct_api_key",
    ),
}
WITHOUT = "not messages7 and not response_format1"  # two answers one after the other; a text of stories260K


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--python", default=sys.executable, help="The Python that has pytest and openai.  [default: this one]")
def main(folder: Path, python: str) -> None:
    """Run the tests in FOLDER. The exit status is 1 if one of them fails."""
    failed = [name for name, tests in TESTS.items() if not _passes(folder, python, name, tests)]
    sys.exit(bool(failed))


def _passes(folder: Path, python: str, name: str, tests: tuple[str, ...]) -> bool:
    keys = {"RWKV_NP_API_KEYS": KEY} if any(_SECURITY in test for test in tests) else {}
    command = [sys.executable, "-m", "rwkv_np.serve", "--port", "0", "--name", name]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | keys)
    assert child.stderr is not None
    try:
        port = next(found[1] for line in child.stderr if (found := re.search(r"http://[^/]+:(\d+)", line)))
        asked = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", WITHOUT, *tests]
        return not subprocess.run(asked, cwd=folder, env=os.environ | {"DEBUG_EXTERNAL": "1", "PORT": port}).returncode
    finally:
        child.terminate()
        child.communicate()


if __name__ == "__main__":
    main()
