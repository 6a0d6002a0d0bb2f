"""Several processes: what they average, and how much each counts."""

import pytest
import torch

from kronos_stream.training.ranks import Ranks


def test_gradients_are_averaged_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    # The other process has ours plus 2.
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda sent: sent.mul_(2).add_(2))
    gradients = [torch.ones(2, 2), torch.full((3,), 5.0)]
    Ranks(0, 2, torch.device("cpu")).average(gradients)
    assert gradients[0].tolist() == [[2.0, 2.0], [2.0, 2.0]]
    assert gradients[1].tolist() == [6.0, 6.0, 6.0]
    assert Ranks(0, 2, torch.device("cpu")).any(False)


def test_the_processes_mean_is_that_of_all_their_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """One has 30 bars that count and a mean of 2, the other 10 and a mean of 4."""
    device = torch.device("cpu")
    for own, other, means in ((30.0, 10.0, (2.0, 4.0)), (0.0, 5.0, (0.0, 3.0))):
        shares = []
        for mine, theirs in ((own, other), (other, own)):
            monkeypatch.setattr(
                torch.distributed, "all_reduce", lambda sent, theirs=theirs: sent.add_(theirs)
            )
            shares.append(float(Ranks(0, 2, device).share(torch.tensor(mine))))
        whole = (own * means[0] + other * means[1]) / (own + other)
        assert sum(s * m for s, m in zip(shares, means, strict=True)) / 2 == pytest.approx(whole)
    assert Ranks(0, 1, device).share(torch.tensor(7.0)) == 1
