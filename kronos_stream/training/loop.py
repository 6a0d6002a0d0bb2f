"""The loop: steps, validation, saving. All that chance decides follows from seed, process and step,
so a run that was killed goes on as if nothing had happened."""

import math
import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError, ModelError
from ..model.checkpoints import Checkpointed
from .interruption import noted_signals
from .losses import Losses
from .meter import Meter, WeightedMeans
from .metrics import Metrics
from .optimiser import AdamW, learning_rate
from .progress import Shown
from .ranks import Ranks
from .settings import Running, TrainSettings
from .state import BEST, LAST, Progress, State, save_checkpoint
from .windows import Batch, Windows

_WINDOWS, _DROPOUT, _VALIDATION = range(3)
"""What a seed is for."""


class Outcome(NamedTuple):
    """How a run ended: `signal` is what stopped it, None where it is done."""

    progress: Progress
    signal: int | None


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
    ) -> None:
        """Takes up the state in `out`, where there is one. `data`: digest of the bars. InputError
        where no validation window counts."""
        self._settings, self._running = settings, running
        self._o = settings.optimisation
        self._trained = trained
        self._loss = loss.to(ranks.device)
        self._optimiser = AdamW(trained, self._o.weight_decay)
        self._windows = train
        self._out, self._ranks = out, ranks
        self._state = State(out, settings.flat() | {"--bars (digest)": data})
        self.progress = self._state.load(trained, self._optimiser, ranks.device)
        self._fixed = list(
            validation.fixed(
                settings.validation_windows,
                np.random.default_rng([self._o.seed, _VALIDATION]),
                batch=self._o.batch,
                part=ranks.rank,
                parts=ranks.world,
            )
        )
        # A model has no loss at a window's first bar.
        if not ranks.any(any(batch.weights[:, 1:].any() for batch in self._fixed)):
            raise InputError(
                "--bars: the validation part: expected prices that move before a window's split, "
                f"they do in none of its {settings.validation_windows} windows "
                "(--validation-windows, --validation-share, --split)"
            )

    def run(self, shown: Shown) -> Outcome:
        """To the last step, or until SIGINT or SIGTERM; the state is saved either way."""
        step, steps = self.progress.step, self._o.steps
        first = self._ranks.rank == 0
        metrics = Metrics(self._out, step) if first else None

        def report(part: str, values: dict[str, float]) -> None:
            if metrics is not None:
                metrics.write(step, part, values)
            shown.values(step, part, values)

        meter = Meter()
        try:
            with noted_signals() as received, ThreadPoolExecutor(1) as ahead:
                following: Future[Batch] = ahead.submit(self._drawn, step)
                while step < steps:
                    batch = following.result()
                    following = ahead.submit(self._drawn, step + 1)
                    losses, norm = self._step(step, batch)
                    meter.add(losses, norm)
                    step += 1
                    shown.step(step)
                    stopped = self._ranks.any(bool(received))
                    ends = stopped or step == steps
                    if ends or step % self._running.log_every == 0:
                        values = meter.means(self._o.batch * self._ranks.world * self._windows.size)
                        report("train", values | {"lr": learning_rate(step - 1, self._o)})
                        meter = Meter()
                    begun = time.perf_counter()
                    if step == steps or step % self._settings.validate_every == 0:
                        report("validation", self._validated(step))
                    # No checkpoint lies in the folder without the state that says whose it is.
                    begins = self.progress.best is not None and not self._state.path.exists()
                    if ends or begins or step % self._running.save_every == 0:
                        self._save(step)
                    meter.skip(time.perf_counter() - begun)
                    if stopped:
                        return Outcome(self.progress, received[0] if received else signal.SIGINT)
        finally:
            if metrics is not None:
                metrics.close()
        return Outcome(self.progress, None)

    def _drawn(self, step: int) -> Batch:
        words = [self._o.seed, _WINDOWS, self._ranks.rank, step]
        return self._windows.draw(self._o.batch, np.random.default_rng(words))

    def _step(self, step: int, batch: Batch) -> tuple[Losses, Tensor]:
        # Dropout and drawn ids of this step, wherever the run was taken up.
        words = [self._o.seed, _DROPOUT, self._ranks.rank, step]
        torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))
        self._loss.train()
        losses = self._computed(batch)
        self._optimiser.zero_grad()
        share = self._ranks.share(losses.weight)
        (losses.loss * share).backward()  # type: ignore[no-untyped-call]
        parameters = self._optimiser.parameters
        self._ranks.average([p.grad for p in parameters if p.grad is not None])
        norm = nn.utils.clip_grad_norm_(parameters, self._o.clip)
        if not math.isfinite(norm):
            raise ModelError(
                f"loss: expected finite gradients, those of step {step + 1} are not; nothing of it "
                "was saved (a lower --lr or a longer --warmup may help)"
            )
        self._optimiser.step(learning_rate(step, self._o))
        return losses, norm

    def _computed(self, batch: Batch) -> Losses:
        device = self._ranks.device
        z, stamps, weights = (torch.from_numpy(a).to(device) for a in batch)
        mixed = self._o.precision == "bf16"
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            computed: Losses = self._loss(z, stamps, weights)
        return computed

    @torch.no_grad()
    def _validated(self, step: int) -> dict[str, float]:
        """The causal training forward, dropout off, on windows of a later time; the best weights
        so far are kept."""
        self._loss.eval()
        means = WeightedMeans()
        for batch in self._fixed:
            means.add(self._computed(batch))
        values = means.means(self._ranks)
        # Of a tokenizer, what it loses: the quantizer's entropies are a means to that.
        judged = values.get("reconstruction", values["loss"])
        best = math.inf if self.progress.best is None else self.progress.best
        if judged < best:
            self.progress = Progress(step, judged, step)
            if self._ranks.rank == 0:
                save_checkpoint(self._trained, self._out / BEST)
        return values

    def _save(self, step: int) -> None:
        self.progress = self.progress._replace(step=step)
        if self._ranks.rank == 0:
            self._state.save(self.progress, self._trained, self._optimiser)
            save_checkpoint(self._trained, self._out / LAST)
