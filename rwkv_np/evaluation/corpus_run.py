"""Read all texts of a folder, here or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rwkv_np.evaluation.corpus import Document, Measured, documents, open_measure, open_work


def measure_folder(
    path: str, folder: str, names: Sequence[str], options: Mapping[str, Any], address: str | None,
    notify: Callable[[str], None],
) -> Generator[Measured, None, None]:  # fmt: skip
    """The result of each text, in the order in which they are done, for the model at `path`.

    names    the texts in the folder, from `names_in`
    address  of a Ray cluster; None: this machine
    """
    problems: list[Measured] = []

    def readable() -> Iterator[Document]:
        for each in documents(folder, names):
            if isinstance(each, Measured):
                problems.append(each)
            else:
                yield each

    if address is None:
        yield from map(open_measure(path, options), readable())
    else:
        yield from _on_ray(path, options, readable(), address, notify)
    yield from problems


def _on_ray(
    path: str, options: Mapping[str, Any], texts: Iterable[Document], address: str, notify: Callable[[str], None]
) -> Iterator[Measured]:
    from rwkv_np.cluster.parcel import pack
    from rwkv_np.cluster.pool import Pool

    pool = Pool(address, pack(path, options, open_work), notify)
    try:
        yield from pool.results(texts)
    finally:
        pool.close()
