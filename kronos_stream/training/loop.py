"""The loop: steps, validation, saving. All that chance decides follows from seed, process and step,
so a run that was killed goes on as if nothing had happened."""

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..model.checkpoints import Checkpointed
from .losses import Losses
from .metrics import Metrics
from .progress import Shown
from .ranks import Ranks
from .settings import Optimisation, Running, TrainSettings
from .state import Progress, State, save_checkpoint
from .windows import Batch, Windows

_TRAIN, _DROPOUT, _VALIDATION = range(3)
BETAS: Final = (0.9, 0.95)


class Outcome(NamedTuple):
    """How a run ended: `signal` is what stopped it, None where it is done."""

    progress: Progress
    signal: int | None


def learning_rate(step: int, o: Optimisation) -> float:
    """Of step 0, 1, ...: up to `lr` in a straight line, down to `lr_end` of it in half a cosine."""
    if step < o.warmup:
        return o.lr * (step + 1) / o.warmup
    done = (step - o.warmup) / max(1, o.steps - o.warmup)
    return o.lr * (o.lr_end + (1 - o.lr_end) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def optimizer_of(module: nn.Module, o: Optimisation) -> torch.optim.Optimizer:
    """AdamW; weights of products decay, embeddings, norms and biases do not."""
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    trained = [p for p in module.parameters() if p.requires_grad]
    decaying = [p for p in trained if p.ndim >= 2 and id(p) not in embeddings]
    others = [p for p in trained if p.ndim < 2 or id(p) in embeddings]
    groups = [
        {"params": decaying, "weight_decay": o.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=o.lr, betas=BETAS, fused=True)


class Loop:
    """Trains `trained`, which `loss` (a module around it) measures."""

    def __init__(
        self,
        settings: TrainSettings,
        running: Running,
        trained: Checkpointed,
        loss: nn.Module,
        train: Windows,
        validation: Windows,
        *,
        data: str,
        out: Path,
        ranks: Ranks,
        shown: Callable[[int], Shown],
    ) -> None:
        """`data`: digest of the bars. `criterion` of the best: see `_judged`."""
        self._settings, self._running = settings, running
        self._o = settings.optimisation
        self._trained = trained
        self._loss = loss.to(ranks.device)
        self._wrapped = ranks.wrap(self._loss)
        self._optimizer = optimizer_of(trained, self._o)
        self._train, self._validation = train, validation
        self._out, self._ranks = out, ranks
        self._state = State(out, settings.flat() | {"bars": data})
        self._progress = self._state.load(trained, self._optimizer, ranks.device)
        self._first = ranks.rank == 0
        self._metrics = Metrics(out, self._progress.step) if self._first else None
        self._shown = shown(self._progress.step)
        self._fixed = list(self._validation_batches())

    def say(self, line: str) -> None:
        """One line for whoever watches."""
        self._shown.say(line)

    def run(self) -> Outcome:
        """To the last step, or until SIGINT or SIGTERM; the state is saved either way."""
        step = self._progress.step
        received: list[int] = []
        since_log = _Since(step)
        try:
            with _signals(received), ThreadPoolExecutor(1) as ahead:
                following: Future[Batch] = ahead.submit(self._drawn, step)
                while step < self._o.steps:
                    batch = following.result()
                    following = ahead.submit(self._drawn, step + 1)
                    losses, norm = self._step(step, batch)
                    since_log.add(losses, norm)
                    step += 1
                    self._shown.step(step)
                    stopped = self._ranks.any(bool(received))
                    last = step == self._o.steps
                    if last or step % self._running.log_every == 0:
                        self._log(step, since_log)
                        since_log = _Since(step)
                    if last or step % self._settings.validate_every == 0:
                        self._validate(step)
                    if last or stopped or step % self._running.save_every == 0:
                        self._save(step)
                    if stopped:
                        return Outcome(self._progress, received[0] if received else signal.SIGINT)
        finally:
            self._shown.close()
            if self._metrics is not None:
                self._metrics.close()
        return Outcome(self._progress, None)

    def _drawn(self, step: int) -> Batch:
        words = [self._o.seed, _TRAIN, self._ranks.rank, step]
        return self._train.draw(self._o.batch, np.random.default_rng(words))

    def _step(self, step: int, batch: Batch) -> tuple[Losses, Tensor]:
        rate = learning_rate(step, self._o)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        # Dropout and sampled ids of a step, wherever the run was taken up.
        words = [self._o.seed, _DROPOUT, self._ranks.rank, step]
        torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))
        self._wrapped.train()
        losses = self._computed(self._wrapped, batch)
        self._optimizer.zero_grad(set_to_none=True)
        losses.loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self._trained.parameters(), self._o.clip)
        self._optimizer.step()
        return losses, norm

    def _computed(self, loss: nn.Module, batch: Batch) -> Losses:
        device = self._ranks.device
        z, stamps, weights = (torch.from_numpy(a).to(device, non_blocking=True) for a in batch)
        bf16 = self._o.precision == "bf16"
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            computed: Losses = loss(z, stamps, weights)
        return computed

    def _validation_batches(self) -> Iterator[Batch]:
        """The same windows every time, this process's share of them."""
        rng = np.random.default_rng([self._o.seed, _VALIDATION])
        left = self._settings.validation_windows
        while left > 0:
            size = min(self._o.batch, left)
            batch = self._validation.draw(size, rng)
            if (left // self._o.batch) % self._ranks.world == self._ranks.rank:
                yield batch
            left -= size

    @torch.no_grad()
    def _validate(self, step: int) -> None:
        """The causal training forward, dropout off, on windows that were never trained on."""
        self._loss.eval()
        sums: dict[str, Tensor] = {}
        for batch in self._fixed:
            losses = self._computed(self._loss, batch)
            values = {"loss": losses.loss, **losses.parts, "weight": torch.ones_like(losses.loss)}
            for name, value in values.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value * losses.weight
        table = self._ranks.total(torch.stack(list(sums.values())).double()).tolist()
        totals = dict(zip(sums, table, strict=True))
        weight = totals.pop("weight")
        values_ = _with_close_error({name: total / weight for name, total in totals.items()})
        self._report(step, "validation", values_)
        judged = values_.get("reconstruction", values_["loss"])
        if self._progress.best is None or judged < self._progress.best:
            self._progress = Progress(step, judged, step)
            if self._first:
                save_checkpoint(self._trained, self._out / "best")

    def _log(self, step: int, since: "_Since") -> None:
        values = since.means(step, self._o.batch * self._ranks.world * self._train.window)
        if not math.isfinite(values["loss"]) or not math.isfinite(values["grad_norm"]):
            raise ModelError(
                f"loss: not finite at step {step}; the last state stands in {self._out} "
                "(a lower --lr or a longer --warmup may help)"
            )
        self._report(step, "train", values | {"lr": learning_rate(step - 1, self._o)})

    def _report(self, step: int, part: str, values: dict[str, float]) -> None:
        if self._metrics is not None:
            self._metrics.write(step, part, values)
        self._shown.values(step, part, values)

    def _save(self, step: int) -> None:
        self._progress = self._progress._replace(step=step)
        if self._first:
            save_checkpoint(self._trained, self._out / "last")
            self._state.save(self._progress, self._trained, self._optimizer)


class _Since:
    """Sums since the last line of metrics, left on the device until they are asked for."""

    def __init__(self, step: int) -> None:
        self._step = step
        self._begun = time.perf_counter()
        self._sums: dict[str, Any] = {}

    def add(self, losses: Losses, norm: Tensor) -> None:
        values = {"loss": losses.loss.detach(), **losses.parts, "grad_norm": norm}
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def means(self, step: int, bars_a_step: int) -> dict[str, float]:
        steps = step - self._step
        means = {name: float(total) / steps for name, total in self._sums.items()}
        seconds = time.perf_counter() - self._begun
        return _with_close_error(means) | {"bars_per_s": steps * bars_a_step / seconds}


def _with_close_error(values: dict[str, float]) -> dict[str, float]:
    """A tokenizer's error on the close: in z, and as a share of the close's one-bar σ."""
    if "close_squared_error" in values:
        error = math.sqrt(values.pop("close_squared_error"))
        step = math.sqrt(values.pop("close_squared_step"))
        values |= {"close_error_z": error, "close_error_sigma": error / step if step else 0.0}
    return values


@contextlib.contextmanager
def _signals(received: list[int]) -> Iterator[None]:
    """SIGINT and SIGTERM are noted, and heeded between two steps."""

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
