"""An error has the same message in another process, and is one short line."""

import copy
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

import rwkv_np
from rwkv_np import errors


def classes(kind=errors.RwkvError):
    yield kind
    for below in kind.__subclasses__():
        yield from classes(below)


def example(kind):
    return kind("m.bin", "is damaged") if issubclass(kind, errors.FileError) else kind("threads is 0")


@pytest.mark.parametrize("kind", list(classes()), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_error_can_be_pickled(kind, protocol):
    error = example(kind)
    error.more = [1, 2]
    for other in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error), copy.deepcopy(error)):
        assert type(other) is kind and str(other) == str(error) and other.args == error.args
        assert vars(other) == vars(error)


def test_the_tree_of_errors_is_the_one_in_the_docstring():
    found = {name for name, value in vars(errors).items() if isinstance(value, type) and name in errors.__doc__}
    assert found == {kind.__name__ for kind in classes() if kind.__module__ == errors.__name__}


def test_text_from_files_is_quoted_in_one_short_line():
    for problem in ("has a\nb\x00\x1b[2J, expected c", "has " + "n" * 100_000 + ", expected c", "\u202e expected c"):
        error = errors.FormatError("m.bin", problem)
        assert str(error) == f"m.bin: {error.problem}" and error.problem.isprintable() and len(str(error)) < 750
        assert error.problem.endswith("expected c")


def test_a_pool_passes_on_what_load_raised(tmp_path):
    (tmp_path / "no.bin").write_bytes(b"no model")
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        with pytest.raises(errors.FormatError, match="no.bin") as caught:
            pool.submit(rwkv_np.load, tmp_path / "no.bin").result(60)
    assert caught.value.path == str(tmp_path / "no.bin")


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No such file", "a\n\x1b[2J"), errors.FormatError("a\nb", "is damaged"),
        OSError(36, "File name too long", "y" * 20_000),
    ],
)  # fmt: skip
def test_any_path_is_shown_in_one_short_line(error):
    said = errors.one_line(error)
    assert said.isprintable() and len(said) < 1000
