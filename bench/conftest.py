"""Show, below pytest-benchmark's table, rates, shares of the limit and errors."""

from __future__ import annotations


def _show(value):
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def pytest_terminal_summary(terminalreporter, config):
    """A line for each benchmark, from its extra_info."""
    session = getattr(config, "_benchmarksession", None)
    for bench in session.benchmarks if session else ():
        facts = ", ".join(f"{name} {_show(value)}" for name, value in sorted(bench.extra_info.items()))
        terminalreporter.write_line(f"{bench.name}: {1e6 * bench.stats.median:.1f} us, {facts}")
