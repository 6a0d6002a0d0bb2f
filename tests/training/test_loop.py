"""The loop: learning, stopping, and going on as if nothing had happened."""

import io
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kronos_stream.errors import ModelError, SettingsError
from kronos_stream.model import Kronos, KronosTokenizer
from kronos_stream.training.loop import Loop, Outcome
from kronos_stream.training.losses import ModelLoss, TokenizerLoss
from kronos_stream.training.optimiser import AdamW, learning_rate
from kronos_stream.training.progress import Shown
from kronos_stream.training.ranks import Ranks
from kronos_stream.training.segments import Bank
from kronos_stream.training.settings import Optimisation, Running
from kronos_stream.training.shapes import model_config, tokenizer_config
from kronos_stream.training.windows import Windows, split_in_time
from tests.threads import threads
from tests.training.markets import TINY, WINDOW, bank_of, frame, settings, write

SILENT = Shown(None, "", done=0, total=0)
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.fixture(autouse=True)
def single() -> Iterator[None]:
    with threads(1):
        yield


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    folder = tmp_path_factory.mktemp("market")
    return bank_of(write(folder / "bars", AAA=frame(400), BBB=frame(400, seed=1, price=7.0)))


Make = Callable[..., Loop]


@pytest.fixture
def make(bank: Bank, tmp_path: Path) -> Make:
    """A loop that trains a tiny model (or tokenizer) in tmp_path / `out`."""

    def loop(out: str = "out", device: str = "cpu", data: str = "d", **changes: Any) -> Loop:
        running = Running(log_every=3, save_every=changes.pop("save_every", 5))
        dropout = changes.pop("dropout", 0.1)
        torch.manual_seed(0)
        bits = {"s1_bits": 4, "s2_bits": 4}
        tokenizer = KronosTokenizer.from_config(tokenizer_config(TINY, dropout=dropout, **bits))
        model = Kronos.from_config(model_config(TINY, dropout=dropout, window=WINDOW, **bits))
        made = settings(**changes)
        is_model = made.stage == "model"
        tokenizer.to(device)
        parts = split_in_time(bank, made.sampling, WINDOW)
        (tmp_path / out).mkdir(exist_ok=True)
        return Loop(
            made,
            running,
            model if is_model else tokenizer,
            ModelLoss(model, tokenizer.eval().encode, "sampled")
            if is_model
            else TokenizerLoss(tokenizer, [1.0] * 6),
            *(Windows(bank, spans, made.sampling) for spans in (parts.train, parts.validation)),
            data=data,
            out=tmp_path / out,
            ranks=Ranks.join(device),
        )

    return loop


class Killed(BaseException):
    """Nothing catches it, as nothing catches a SIGKILL."""


def killed_after(loop: Loop, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = Loop._step
    left = [steps]

    def step(*arguments: Any) -> Any:
        if not left[0]:
            raise Killed
        left[0] -= 1
        return taken(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", step)
        with pytest.raises(Killed):
            loop.run(SILENT)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return Kronos.from_pretrained(folder).state_dict()


def lines(folder: Path) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in entry.items() if k != "bars_per_s"} for entry in entries]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    make("straight", device).run(SILENT)
    killed_after(make("killed", device), 8, monkeypatch)  # The state is that of step 5.
    resumed = make("killed", device)
    assert resumed.progress.step == 5
    outcome = resumed.run(SILENT)
    assert outcome.progress.step == 12
    assert outcome.signal is None
    for part in ("last", "best"):
        one, other = weights(tmp_path / "straight" / part), weights(tmp_path / "killed" / part)
        for name, tensor in one.items():
            if device == "cpu":
                assert torch.equal(tensor, other[name]), name
            else:
                torch.testing.assert_close(tensor, other[name], atol=1e-3, rtol=0)
    if device == "cpu":
        straight, killed = lines(tmp_path / "straight"), lines(tmp_path / "killed")
        assert [e for e in killed if e["part"] == "validation"] == [
            e for e in straight if e["part"] == "validation"
        ]
        assert [(e["step"], e["part"]) for e in killed] == [
            (e["step"], e["part"]) for e in straight
        ]


@pytest.mark.parametrize("stage", ["model", "tokenizer"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_learns(make: Make, tmp_path: Path, stage: str, precision: str) -> None:
    make(stage=stage, precision=precision, steps=24, dropout=0.0, validate_every=8).run(SILENT)
    seen = [e["loss"] for e in lines(tmp_path / "out") if e["part"] == "validation"]
    assert seen[-1] < seen[0] - 0.05
    if stage == "tokenizer":
        entry = lines(tmp_path / "out")[-1]
        assert entry["reconstruction"] == pytest.approx(
            (entry["mse_coarse"] + entry["mse_full"]) / 2, rel=1e-4
        )
        assert entry["close_error_sigma"] > 0
        KronosTokenizer.from_pretrained(tmp_path / "out" / "best")


def test_the_best_is_the_one_with_the_lowest_validation(make: Make, tmp_path: Path) -> None:
    outcome = make(lr=0.5, steps=12, validate_every=2).run(SILENT)
    seen = {e["step"]: e["loss"] for e in lines(tmp_path / "out") if e["part"] == "validation"}
    assert outcome.progress.best_step == min(seen, key=lambda step: seen[step])
    assert outcome.progress.best_step != 12
    best, last = weights(tmp_path / "out" / "best"), weights(tmp_path / "out" / "last")
    assert any(not torch.equal(tensor, last[name]) for name, tensor in best.items())
    assert not list((tmp_path / "out").glob("*.tmp"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_ends(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    make("straight").run(SILENT)
    loop = make()
    taken = Loop._step

    def step(self: Loop, at: int, batch: Any) -> Any:
        if at == 6:
            os.kill(os.getpid(), number)
        return taken(self, at, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", step)
        outcome = loop.run(SILENT)
    assert (outcome.signal, outcome.progress.step) == (number, 7)
    assert make().run(SILENT).progress.step == 12
    one, other = weights(tmp_path / "straight" / "last"), weights(tmp_path / "out" / "last")
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_finished_run_is_left_alone(make: Make, tmp_path: Path) -> None:
    done = make().run(SILENT)
    before = (tmp_path / "out" / "state.pt").read_bytes()
    assert make().run(SILENT) == done == Outcome(done.progress, None)
    assert (tmp_path / "out" / "state.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.02}, "--lr: the run in .* was begun with 0.01, got 0.02; give the same"),
        ({"steps": 13}, "--steps: the run in .* was begun with 12, got 13"),
        ({"seed": 8}, "--seed: .* was begun with 7, got 8"),
        ({"data": "other"}, "--bars .*digest.*: .* was begun with 'd', got 'other'"),
        ({"data": "other", "seed": 8}, "--seed: "),
        ({"data": "other", "stage": "tokenizer"}, "kronos-stream train: .* with 'model'"),
        ({"processes": 2}, "the processes of torchrun: .* was begun with 1, got 2"),
    ],
)
def test_another_runs_state_is_refused(make: Make, changes: dict[str, Any], message: str) -> None:
    make().run(SILENT)
    with pytest.raises(SettingsError, match=message):
        make(**changes)


def test_a_kill_while_a_checkpoint_is_written_is_got_over(make: Make, tmp_path: Path) -> None:
    for name in (".best.tmp", ".last.tmp"):
        (tmp_path / "out" / name).mkdir(parents=True)
        (tmp_path / "out" / name / ".tmp2UETu8").write_bytes(b"half a file")
    make().run(SILENT)
    assert make().progress.step == 12
    assert not list((tmp_path / "out").glob(".*"))


def test_a_broken_state_is_told(make: Make, tmp_path: Path) -> None:
    make().run(SILENT)
    path = tmp_path / "out" / "state.pt"
    whole = path.read_bytes()
    told = r"--out: .*state.pt cannot be read"
    for kept in (0, 500, 5_000, 20_000):
        path.write_bytes(whole[:kept])
        with pytest.raises(SettingsError, match=told):
            make()
    path.unlink()
    path.mkdir()
    with pytest.raises(SettingsError, match=told):
        make()


def test_a_kill_between_the_first_checkpoint_and_the_first_save_is_got_over(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_after(make(save_every=100), 5, monkeypatch)
    assert (tmp_path / "out" / "best").exists()
    resumed = make(save_every=100)
    assert resumed.progress.step == resumed.progress.best_step
    assert resumed.run(SILENT).progress.step == 12


def test_gradients_that_are_not_finite_end_it_and_spoil_nothing(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = make(save_every=1)
    computed = Loop._computed

    calls: list[Any] = []

    def spoiled(self: Loop, batch: Any) -> Any:
        calls.append(batch)
        out = computed(self, batch)
        return out._replace(loss=out.loss * (torch.nan if len(calls) == 2 else 1.0))

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_computed", spoiled)
        with pytest.raises(ModelError, match="loss: expected finite gradients, those of step 2"):
            loop.run(SILENT)
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "out" / "last").values())
    assert make(save_every=1).progress.step == 1


def test_what_is_not_finite_is_null_and_never_the_best(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = Loop._computed

    def spoiled(self: Loop, batch: Any) -> Any:
        out = computed(self, batch)
        validates = not torch.is_grad_enabled() and not (tmp_path / "out" / "last").exists()
        return out._replace(loss=out.loss * (torch.nan if validates else 1.0))

    monkeypatch.setattr(Loop, "_computed", spoiled)
    outcome = make().run(SILENT)  # Validated at 4, 8 and 12, saved first at 5.
    assert "NaN" not in (tmp_path / "out" / "metrics.jsonl").read_text()
    seen = {e["step"]: e["loss"] for e in lines(tmp_path / "out") if e["part"] == "validation"}
    assert seen[4] is None
    assert outcome.progress.best_step in (8, 12)


def test_learning_rate() -> None:
    o = Optimisation(steps=110, lr=1.0, lr_end=0.2, warmup=10)
    rates = [learning_rate(step, o) for step in range(110)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[60] == pytest.approx(0.6)
    assert rates[109] == pytest.approx(0.2, abs=1e-3)


def test_what_decays() -> None:
    model = Kronos.from_config(model_config(TINY, s1_bits=4, s2_bits=4, dropout=0.0, window=8))
    optimiser = AdamW(model, 0.1)
    kept = {
        id(p) for p, decay in zip(optimiser.parameters, optimiser.decays, strict=True) if not decay
    }
    for name, parameter in model.named_parameters():
        embeds = "embedding.emb_" in name or name.endswith("_embed.weight")
        assert (id(parameter) in kept) == (embeds or "norm" in name or name.endswith("bias")), name


def test_adamw_is_that_of_its_paper() -> None:
    layer = torch.nn.Linear(3, 2)
    optimiser = AdamW(layer, 0.1)
    weight, bias = (p.detach().double().clone() for p in layer.parameters())
    means = [torch.zeros_like(p) for p in (weight, bias)]
    squares = [torch.zeros_like(p) for p in (weight, bias)]
    for t in range(1, 4):
        lr = 0.01 * t
        optimiser.zero_grad()
        layer(torch.tensor([[1.0, -2.0, t]])).square().sum().backward()
        optimiser.step(lr)
        weight *= 1 - lr * 0.1
        for value, own, mean, square in zip(
            (weight, bias), layer.parameters(), means, squares, strict=True
        ):
            assert own.grad is not None
            g = own.grad.double()
            mean.mul_(0.9).add_(g, alpha=0.1)
            square.mul_(0.95).add_(g * g, alpha=0.05)
            root = (square / (1 - 0.95**t)).sqrt() + 1e-8
            value -= lr * (mean / (1 - 0.9**t)) / root
            torch.testing.assert_close(own.double(), value, atol=1e-5, rtol=0)


def test_a_step_descends_by_its_share(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = make()
    _, whole = loop._step(0, loop._drawn(0))
    monkeypatch.setattr(Ranks, "share", lambda self, weight: torch.tensor(0.5))
    again = make("again")
    _, half = again._step(0, again._drawn(0))
    assert float(half) == pytest.approx(float(whole) / 2)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_shown_as_lines_or_as_a_bar() -> None:
    plain = io.StringIO()
    shown = Shown(plain, "model", done=0, total=10)
    shown.step(3)
    shown.values(3, "train", {"loss": 1.23456})
    shown.close()
    assert plain.getvalue() == "model 3/10 train  loss 1.235\n"

    terminal = Terminal()
    shown = Shown(terminal, "model", done=2, total=10)
    shown.values(3, "train", {"loss": 1.5})
    shown.values(3, "validation", {"loss": 1.7})
    shown.step(4)
    shown.close()
    assert "4/10" in terminal.getvalue()
    assert "model 3/10 validation  loss 1.7" in terminal.getvalue()


def test_a_narrow_terminal_keeps_the_bar_and_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    terminal = Terminal()
    shown = Shown(terminal, "tokenizer", done=0, total=12_000)
    shown.values(20, "train", {f"a_long_name_{n}": 1.5 for n in range(9)})
    shown.step(4_321)
    shown.close()
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue()).rstrip().rpartition("\r")[2]
    assert last.startswith("tokenizer ")
    assert " 4321/12000 " in last
    assert "a_long_name_0 1.5" in last
    assert len(last) <= 80


def test_tensorboard_reads_what_a_killed_and_resumed_run_wrote(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_after(make(), 8, monkeypatch)  # The state is that of step 5: the metrics of 6 go.
    make().run(SILENT)
    board = EventAccumulator(str(tmp_path / "out" / "tensorboard")).Reload()
    for part, name in (("train", "loss"), ("validation", "loss_s2")):
        seen = [(e.step, e.value) for e in board.Scalars(f"{part}/{name}")]
        told = [(e["step"], e[name]) for e in lines(tmp_path / "out") if e["part"] == part]
        assert [step for step, _ in seen] == [step for step, _ in told]
        assert [value for _, value in seen] == pytest.approx([value for _, value in told], 1e-5)


def test_without_tensorboard_nothing_is_written_for_it(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    make().run(SILENT)
    assert lines(tmp_path / "out")
    assert not (tmp_path / "out" / "tensorboard").exists()
