"""What a training run can be told. Every field is a flag of `kronos-stream train`."""

import json
import math
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from ..errors import SettingsError

Stage = Literal["tokenizer", "model"]

TIME_FEATURES: Final = ("minute", "hour", "weekday", "day", "month")
"""Of a bar's open time, by the calendar's clock."""

_FLAGS: Final = {
    "stage": "kronos-stream train",
    "split_low": "--split (its low)",
    "split_high": "--split (its high)",
    "start": "--from",
    "processes": "the processes of torchrun",
    "n_layers": "--layers",
    "n_enc_layers": "--layers (of the encoder, and 1)",
    "n_dec_layers": "--layers (of the decoder, and 1)",
    "n_heads": "--heads",
    "ffn_dropout_p": "--dropout",
    "attn_dropout_p": "--dropout (of attention)",
    "resid_dropout_p": "--dropout (of residuals)",
    "token_dropout_p": "--dropout (of tokens)",
    "max_context": "--window (max_context)",
}
"""Where a value's flag is not its own name."""


class Cleaning(Struct, frozen=True, kw_only=True):
    """Which bars are left out, with the limits published for 5-minute data."""

    max_jump: float = 0.15
    """A segment is cut where the next open lies further from a close than this share."""
    max_illiquid: int = 3
    """Longer runs of bars without volume are dropped."""
    max_stagnant: int = 10
    """Longer runs of equal closes are dropped."""
    min_segment: int
    """Shorter segments are dropped."""


class Sampling(Struct, frozen=True, kw_only=True):
    """How windows are drawn. All numbers of bars."""

    window: int = 256
    split_low: int
    split_high: int
    """The split is drawn from [low, high]: statistics come from the bars before it."""
    horizon: int = 24
    """Bars after which a forecast ends: the parts lie a window and a horizon apart."""
    validation_share: float = 0.15
    """The last part of the time that all symbols span together."""
    volume_dropout: float = 0.05
    """Share of windows in which volume and amount are missing."""
    context_loss_weight: float
    """What a bar before the split counts in the loss, beside 1 for a bar after it."""


class Optimisation(Struct, frozen=True, kw_only=True):
    """AdamW with a linear warm-up and half a cosine."""

    steps: int
    batch: int = 24
    """Windows a step and process."""
    lr: float
    lr_end: float = 0.1
    """Learning rate at the end, as a share of `lr`."""
    warmup: int = 100
    weight_decay: float = 0.1
    clip: float = 1.0
    """Largest norm of all gradients together."""
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 7


class Running(Struct, frozen=True, kw_only=True):
    """What changes nothing that is learned: free to differ when a run is resumed."""

    device: str = "cpu"
    threads: int = 0
    """CPU threads; 0: as torch finds them."""
    log_every: int = 20
    save_every: int = 200


class TrainSettings(Struct, frozen=True, kw_only=True):
    """One run of one stage."""

    stage: Stage
    interval: str = "5m"
    calendar: str = "24/7"
    cleaning: Cleaning
    sampling: Sampling
    optimisation: Optimisation
    validate_every: int = 200
    validation_windows: int = 256
    fine_condition: Literal["true", "sampled"] = "true"
    """Which coarse id the fine head sees: the true one, or one drawn from the coarse logits."""
    time_features: tuple[str, ...] = TIME_FEATURES
    """Those that a model may know, in that order; a tokenizer knows none."""
    channel_weights: tuple[float, ...] = (1.0,) * 6
    """What each channel counts in the tokenizer's reconstruction."""
    start: str = "scratch"
    """scratch, or the digest of the checkpoint that this run begins with."""
    tokenizer: str | None = None
    """Digest of the tokenizer that makes the model's ids."""
    shape: dict[str, Any]
    """config.json of what is trained."""
    processes: int = 1

    def check(self) -> None:
        """SettingsError where values do not go together."""
        s = self.sampling
        if not 2 <= s.split_low <= s.split_high < s.window:
            raise SettingsError(
                f"--split: expected 2 <= LOW <= HIGH < window {s.window}, "
                f"got {s.split_low}:{s.split_high}"
            )
        if self.cleaning.min_segment <= s.split_low:
            raise SettingsError(
                f"--min-segment: expected more bars than the lowest split {s.split_low}, got "
                f"{self.cleaning.min_segment}"
            )
        if self.optimisation.warmup >= self.optimisation.steps:
            raise SettingsError(
                f"--warmup: expected fewer steps than --steps {self.optimisation.steps}, got "
                f"{self.optimisation.warmup}"
            )
        if self.validation_windows < self.processes:
            raise SettingsError(
                f"--validation-windows: expected at least one for each of {self.processes} "
                f"processes, got {self.validation_windows}"
            )
        weights = self.channel_weights
        if len(weights) != 6 or min(weights) < 0 or not 0 < sum(weights) < math.inf:
            raise SettingsError(
                "--channel-weights: expected six finite numbers of 0 or more, not all 0, got "
                f"{','.join(map(str, weights))}"
            )

    def flat(self) -> dict[str, Any]:
        """Every value that shapes what is learned, under the name of its flag where it has one."""
        # Through JSON, so that it equals what was saved: a tuple there is a list.
        tree = json.loads(msgspec.json.encode(self))
        sections = ("cleaning", "sampling", "optimisation", "shape")
        flat = {key: value for key, value in tree.items() if key not in sections}
        for section in sections:
            flat |= tree[section]
        return {_FLAGS.get(k, "--" + k.replace("_", "-")): v for k, v in flat.items()}
