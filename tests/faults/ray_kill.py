"""Two Ray nodes on this machine, and what can happen to them: in the end, the bytes of a job on one machine.

    python tests/faults/ray_kill.py [--rows 300] [--only worker,driver,...]

Needs the extra [ray] and psutil. Not part of CI, since it takes minutes. Every scenario starts its own cluster, and
ends the processes that it started.

    undisturbed  nothing happens
    worker       kill -9 of the second node's raylet: its rows are done on the first
    actor        kill -9 of an actor in the middle of its rows: another takes its place
    driver       kill -9 of the job: the answers stay, and the next start goes on
    stopped      SIGTERM and Ctrl-C: the job ends at once, its actors too, and the next start goes on
    late         the second node joins when the job has begun
    disk         the disk is full in the middle: an error that says so, and the next start goes on
    model        another model on the second node: refused, with the node's name
    sent         no model on the second node: it is sent
    busy         no free CPU: a line says so, and the job begins when there is one
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import psutil

from rwkv_np import demo

ROOT = Path(__file__).parents[2]
OTHER = ROOT / "tests" / "data" / "golden-4v0" / "golden-4v0.FP16.bin"
PORT = 6407
ENVIRONMENT = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}


class Cluster:
    """A head, and perhaps a second node. All are children of this process."""

    def __init__(self, folder: Path, cpus: int = 2) -> None:
        self._folder, self._cpus = folder, cpus
        self.head = self._start("--head", "--port", PORT, "--temp-dir", folder / "ray", "--include-dashboard=false")
        self.worker: psutil.Popen | None = None

    def join(self, **environment: str) -> None:
        """Start the second node."""
        self.worker = self._start("--address", f"127.0.0.1:{PORT}", **environment)

    def end(self) -> None:
        """End both, and all that they started."""
        for node in (self.worker, self.head):
            if node is not None:
                for process in [*_below(node), node]:
                    _kill(process)

    def _start(self, *options: object, **environment: str) -> psutil.Popen:
        command = [Path(sys.executable).with_name("ray"), "start", "--block", *options, "--num-cpus", self._cpus]
        command += ["--object-store-memory", 80_000_000, "--node-ip-address", "127.0.0.1", "--disable-usage-stats"]
        log = open(self._folder / f"node-{time.monotonic_ns()}.log", "w+")  # noqa: SIM115
        node = psutil.Popen([*map(str, command)], env=ENVIRONMENT | environment, stdout=log, stderr=log)
        end = time.monotonic() + 180
        while "Ray runtime started" not in (said := Path(log.name).read_text()):
            if node.poll() is not None or time.monotonic() > end:
                for process in [*_below(node), node]:
                    _kill(process)
                raise click.ClickException(f"the node did not start: {said}")
            time.sleep(0.1)
        return node


def _below(node: psutil.Popen) -> list[psutil.Process]:
    try:
        return node.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
        process.wait(10)
    except (psutil.NoSuchProcess, psutil.TimeoutExpired):
        pass


def raylet(node: psutil.Popen) -> psutil.Process:
    """The process that is the node."""
    return next(process for process in _below(node) if process.name() == "raylet")


def actors(node: psutil.Popen) -> list[psutil.Process]:
    """The processes with a model."""
    return [process for process in _below(node) if "ray::Node" in " ".join(process.cmdline()[:1] or [process.name()])]


class Run:
    """A folder with requests, and jobs with them."""

    def __init__(self, folder: Path, n_rows: int) -> None:
        self.folder, self.requests, self.n_rows = folder, folder / "requests.jsonl", n_rows
        chance = random.Random(5)
        rows = []
        for i in range(n_rows):
            said = [{"role": "system", "content": f"Alice is {chance.choice(['kind', 'old', 'tired'])}."}]
            said.append({"role": "user", "content": f"Tell me a story about {i}."})
            body = {"messages": said, "max_tokens": chance.randrange(20, 160), "ignore_eos": True}
            rows.append({"custom_id": f"r{i}", "method": "POST", "url": "/v1/chat/completions", "body": body})
        rows[7] = {"broken": 1}
        self.requests.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.one = folder / "one.jsonl"
        self.finish(self.job(self.one, on_ray=False))

    def job(self, answers: Path, *options: str, on_ray: bool = True, **popen: object) -> subprocess.Popen[str]:
        """Start a job."""
        where = ("--ray", "--address", f"127.0.0.1:{PORT}") if on_ray else ()
        command = [sys.executable, "-m", "rwkv_np.batch", demo.MODEL, self.requests, answers, "--threads", 1]
        command += ["--max-running", 8, *where, *options]
        words = [*map(str, command)]
        return subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, **popen)  # type: ignore[call-overload]

    def finish(self, job: subprocess.Popen[str], status: int = 0) -> str:
        """What a job says until its end."""
        said = job.communicate(timeout=300)[1]
        assert job.returncode == status, f"status {job.returncode}: {said}"
        return said

    def wait(self, answers: Path, n: int) -> int:
        """Wait for `n` answers."""
        end = time.monotonic() + 90
        while (found := answers.read_bytes().count(b"\n") if answers.exists() else 0) < n:
            assert time.monotonic() < end, f"{found} rows"
            time.sleep(0.02)
        return found

    def check(self, answers: Path) -> None:
        """Both files have the bytes of one machine: one row for each id, in order."""
        for end in (".jsonl", ".errors.jsonl"):
            assert answers.with_suffix(end).read_bytes() == self.one.with_suffix(end).read_bytes(), end
        ids = [json.loads(line)["custom_id"] for line in answers.read_text().splitlines()]
        assert len(ids) == len(set(ids)) == self.n_rows - 1


def undisturbed(run: Run, cluster: Cluster, answers: Path) -> str:
    cluster.join()
    return run.finish(run.job(answers))


def worker(run: Run, cluster: Cluster, answers: Path) -> str:
    cluster.join()
    job = run.job(answers)
    run.wait(answers, run.n_rows // 4)
    _wait(lambda: actors(cluster.worker))
    _kill(raylet(cluster.worker))
    said = run.finish(job)
    assert "is lost" in said, said
    return said


def actor(run: Run, cluster: Cluster, answers: Path) -> str:
    cluster.join()
    job = run.job(answers)
    said = ""
    for share in (5, 2):
        run.wait(answers, run.n_rows // share)
        found = _wait(lambda: actors(cluster.worker) or actors(cluster.head))
        _kill(found[0])
    said = run.finish(job)
    assert said.count("is lost") == 2, said
    return said


def driver(run: Run, cluster: Cluster, answers: Path) -> str:
    cluster.join()
    job = run.job(answers)
    run.wait(answers, run.n_rows // 3)
    job.send_signal(signal.SIGKILL)
    job.communicate()
    kept = answers.read_bytes()
    n = kept.count(b"\n")
    said = run.finish(run.job(answers))
    assert f"{n} by earlier starts" in said, (n, said)
    return said


def stopped(run: Run, cluster: Cluster, answers: Path) -> str:
    said = ""
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        job = run.job(answers)
        run.wait(answers, 1 + (answers.read_bytes().count(b"\n") if answers.exists() else 0))
        job.send_signal(number)
        said += run.finish(job, status)
        assert "the same command goes on" in said and "Traceback" not in said, said
        _wait(lambda: [] if actors(cluster.head) else [cluster.head])
    return said + run.finish(run.job(answers))


def late(run: Run, cluster: Cluster, answers: Path) -> str:
    job = run.job(answers)
    run.wait(answers, run.n_rows // 10)
    cluster.join()
    return run.finish(job)  # says "ready" twice, unless all rows are done before


def disk(run: Run, cluster: Cluster, answers: Path) -> str:
    size = run.one.stat().st_size // 2

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    said = run.finish(run.job(answers, preexec_fn=limit), 1)
    assert "Free some space" in said and answers.read_bytes().endswith(b"}\n"), said
    return said + run.finish(run.job(answers))


def model(run: Run, cluster: Cluster, answers: Path) -> str:
    cluster.join(RWKV_NP_CLUSTER_MODEL=str(OTHER))
    said = run.finish(run.job(answers), 1)
    assert "is another model on node " in said, said
    cluster.end()
    cluster.__init__(run.folder)  # type: ignore[misc]
    cluster.join()
    return said + run.finish(run.job(answers))


def sent(run: Run, cluster: Cluster, answers: Path) -> str:
    cache = run.folder / "cache"
    shutil.copytree(os.environ["RWKV_NP_CACHE"], cache)
    cluster.join(RWKV_NP_CLUSTER_MODEL="/nowhere/model.bin", RWKV_NP_CACHE=str(cache))
    said = run.finish(run.job(answers))
    (found,) = (cache / "models").rglob("*.bin")
    assert found.read_bytes() == demo.MODEL.read_bytes()
    return said


def busy(run: Run, cluster: Cluster, answers: Path) -> str:
    hold = (
        f"import ray; ray.init('127.0.0.1:{PORT}', logging_level='ERROR')\n@ray.remote(num_cpus=2)\nclass Holder:\n"
        " def ok(self): return 1\n"
        "holder = Holder.remote(); ray.get(holder.ok.remote()); print('held', flush=True); input()"
    )
    holder = subprocess.Popen([sys.executable, "-c", hold], stdin=-1, stdout=-1, text=True, env=ENVIRONMENT)
    assert holder.stdout and "held" in holder.stdout.readline()
    job = run.job(answers)
    time.sleep(40)
    holder.communicate("\n")
    said = run.finish(job)
    assert "another job may have them" in said, said
    return said


SCENARIOS: dict[str, Callable[[Run, Cluster, Path], str]] = {
    made.__name__: made for made in (undisturbed, worker, actor, driver, stopped, late, disk, model, sent, busy)
}


def _wait(look: Callable[[], list[psutil.Process]]) -> list[psutil.Process]:
    end = time.monotonic() + 60
    while not (found := look()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


@contextmanager
def _cluster(folder: Path) -> Iterator[Cluster]:
    cluster = Cluster(folder)
    try:
        yield cluster
    finally:
        cluster.end()
        shutil.rmtree(folder / "ray", ignore_errors=True)


@click.command()
@click.option("--rows", default=300)
@click.option("--only", default=",".join(SCENARIOS))
def main(rows: int, only: str) -> None:
    """Run the scenarios, and print what each job said."""
    folder = Path(tempfile.mkdtemp(prefix="rk-"))
    run = Run(folder, rows)
    for name in only.split(","):
        with _cluster(folder) as cluster:
            begin = time.monotonic()
            answers = folder / f"{name}.jsonl"
            said = SCENARIOS[name](run, cluster, answers)
            run.check(answers)
        click.echo(f"{name}: the bytes of one machine, in {time.monotonic() - begin:.0f} s")
        click.echo("".join(f"    {line}\n" for line in said.splitlines()))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
