"""A job on a Ray cluster: the rows are answered on all nodes, and written here, as those of one machine.

The files of the job stay where it was started: one process writes them, so an id has one answer, and a start after
whatever happened goes on as on one machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rwkv_np.batch.answerer import Desk, open_answerer
from rwkv_np.batch.job import Job
from rwkv_np.batch.source import Line
from rwkv_np.cluster.parcel import pack
from rwkv_np.cluster.pool import Pool
from rwkv_np.cluster.work import Work
from rwkv_np.serve.loading import name_of


def run_on_ray(
    job: Job, path: str, options: Mapping[str, Any], address: str, lines: Iterable[Line], notify: Callable[[str], None]
) -> None:
    """Answer all lines on the cluster at `address`. Raises InputError: there is none; RwkvError: a node cannot work."""
    options = dict(options) | {"name": name_of(path, options)}  # a node may have the file under another name
    pool = Pool(address, pack(path, options, open_desk), notify)
    try:
        for row in pool.results(job.rows(lines)):
            job.put(row)
    finally:
        pool.close()


def open_desk(path: str, options: Mapping[str, Any]) -> Work:
    """The work of a node."""
    return Desk(open_answerer(path, options, _ignore, _ignore))


def _ignore(*said: object) -> None:
    """Nobody sees a node's progress."""
