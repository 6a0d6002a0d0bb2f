"""How a rolling restart is judged."""

from types import SimpleNamespace

import pytest

from .judging import slowest_return
from .plan import Plan
from .report import Report

PLAN = Plan(speed=30.0)
"""A close every two seconds."""


def _slowest(*arrivals: tuple[str, float]) -> float:
    """Of a restart of a bars member from second 10 to second 14."""
    report = Report(seed=0, broken=None)
    report.restarts.append(("bars", 10.0, 14.0))
    seen = {("bars", symbol, i): at for i, (symbol, at) in enumerate(arrivals)}
    seen |= {("forecast", "A", 0): 9.0, ("forecast", "A", 1): 99.0}
    observer = SimpleNamespace(arrivals=seen)
    return slowest_return(report, PLAN, observer)[0]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arrivals", "late_s"),
    [
        pytest.param([("A", 9.0), ("A", 15.5)], 1.5, id="silent until after the restart"),
        pytest.param([("A", 9.0), ("A", 13.5), ("A", 15.5)], 0.0, id="another member published"),
        pytest.param([("A", 9.0), ("A", 13.5), ("A", 18.0)], 2.5, id="silent after another's"),
        pytest.param([("A", 15.0)], 0.0, id="new after the restart"),
        pytest.param([("A", 9.0), ("A", 14.1), ("B", 9.0), ("B", 17.0)], 3.0, id="the worst one"),
    ],
)
def test_a_return_is_late_by_the_time_since_restart_or_due(
    arrivals: list[tuple[str, float]], late_s: float
) -> None:
    assert _slowest(*arrivals) == pytest.approx(late_s)
