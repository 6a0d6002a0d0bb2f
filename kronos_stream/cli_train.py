"""`kronos-stream train`: parses, builds the settings of a run, and says how it ended."""

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import click

from .errors import InputError, ModelError, SettingsError
from .flags import Finite, check_bars
from .wire.intervals import INTERVAL_MS

if TYPE_CHECKING:
    from .training.loop import Outcome
    from .training.ranks import Ranks
    from .training.run import Job
    from .training.settings import TrainSettings


POSITIVE: Final = click.IntRange(min=1)
NOT_NEGATIVE: Final = click.IntRange(min=0)
BITS: Final = click.IntRange(1, 16)
"""A model has a row of weights for each id: 2^16 is far more than the published 2^10."""
ABOVE_0: Final = Finite(min=0, min_open=True)
SHARE: Final = Finite(0, 1, max_open=True)
SIZES: Final = click.Choice(["nano", "mini", "small", "base"])
_FRESH: Final = ("size", "layers", "d_model", "heads", "ff_dim", "s1_bits", "s2_bits")


@click.group()
def train() -> None:
    """Train a tokenizer, then a model on its ids, from bars.

    The same command goes on from where it was stopped or killed.
    """


_COMMON: Final = (
    ("--bars", {"multiple": True, "required": True, "type": click.Path(path_type=Path)},
     "Bars (parquet, csv, JSON lines) or a folder of them; several times."),
    ("--out", {"required": True, "type": click.Path(path_type=Path, file_okay=False)},
     "Folder for best/, last/, the state, metrics.jsonl and data.json."),
    ("--from", {"metavar": "DIR|ID"}, "Begin with this checkpoint: a folder or hub id."),
    ("--interval", {"type": click.Choice(list(INTERVAL_MS)), "default": "5m"}, "Length of a bar."),
    ("--calendar", {"metavar": "NAME", "default": "24/7"},
     "24/7, or an exchange such as XNYS: what a gap is, and whose clock is read."),
    ("--steps", {"type": POSITIVE, "default": 2_000}, "Steps of the whole run."),
    ("--batch", {"type": POSITIVE, "default": 24}, "Windows a step and process."),
    ("--window", {"type": click.IntRange(min=8), "default": 256}, "Bars of a window."),
    ("--split", {"metavar": "LOW:HIGH"},
     "Statistics come from the bars before a split drawn here; default: 3/8 of the window to "
     "the window less the horizon."),
    ("--horizon", {"type": POSITIVE, "default": 24}, "Bars that a forecast will reach."),
    ("--context-loss-weight", {"type": Finite(min=0)},
     "What a bar before the split counts; default: 0 for a model, 1 for a tokenizer."),
    ("--lr", {"type": ABOVE_0}, "Learning rate; default 1e-3, with --from 1e-4."),
    ("--lr-end", {"type": Finite(0, 1), "default": 0.1}, "Its share at the end."),
    ("--warmup", {"type": NOT_NEGATIVE},
     "Steps in which it rises; default: a tenth of all, at most 100."),
    ("--weight-decay", {"type": Finite(min=0), "default": 0.1}, "AdamW's."),
    ("--clip", {"type": ABOVE_0, "default": 1.0}, "Largest norm of the gradients."),
    ("--precision", {"type": click.Choice(["fp32", "bf16"]), "default": "fp32"},
     "bf16: mixed precision."),
    ("--seed", {"type": click.IntRange(0, 2**63 - 1), "default": 7},
     "Of weights, windows and dropout."),
    ("--dropout", {"type": SHARE}, "All dropouts; default 0, with --from the checkpoint's."),
    ("--volume-dropout", {"type": Finite(0, 1), "default": 0.05},
     "Share of windows without volume and amount."),
    ("--validation-share", {"type": Finite(0, 1, min_open=True, max_open=True), "default": 0.15},
     "Last part of the time, never trained on."),
    ("--validation-windows", {"type": POSITIVE, "default": 256}, "Fixed windows from there."),
    ("--validate-every", {"type": POSITIVE, "default": 200}, "Steps."),
    ("--max-jump", {"type": ABOVE_0, "default": 0.15}, "Cut where a next open lies further."),
    ("--max-illiquid", {"type": NOT_NEGATIVE, "default": 3}, "Longest run without volume kept."),
    ("--max-stagnant", {"type": POSITIVE, "default": 10}, "Longest run of one close kept."),
    ("--min-segment", {"type": POSITIVE}, "Shortest segment kept; default: the window."),
    ("--device", {"metavar": "NAME", "default": "cpu"}, "cpu, cuda or cuda:N."),
    ("--threads", {"type": NOT_NEGATIVE, "default": 0}, "CPU threads; 0: as torch finds them."),
    ("--log-every", {"type": POSITIVE, "default": 20}, "Steps between lines of metrics."),
    ("--save-every", {"type": POSITIVE, "default": 200}, "Steps between states."),
    ("--layers", {"type": POSITIVE}, "Blocks (of a tokenizer's encoder and decoder each)."),
    ("--d-model", {"type": POSITIVE}, "Width."),
    ("--heads", {"type": POSITIVE}, "Attention heads."),
    ("--ff-dim", {"type": POSITIVE}, "Width of the feed-forward part."),
    ("--size", {"type": SIZES}, "A named shape, which the four above change; default nano."),
)  # fmt: skip


def _options(command: Callable[..., int]) -> Callable[..., int]:
    for name, settings, what in reversed(_COMMON):
        names = (name, "from_") if name == "--from" else (name,)
        shows = "default" in settings
        command = click.option(*names, help=what, show_default=shows, **settings)(command)
    return command


@train.command()
@_options
@click.option("--s1-bits", type=BITS, help="Bits of the coarse id; default 10.")
@click.option("--s2-bits", type=BITS, help="Bits of the fine id; default 10.")
@click.option(
    "--channel-weights",
    metavar="O,H,L,C,V,A",
    default="1,1,1,1,1,1",
    show_default=True,
    help="What each channel counts in the reconstruction.",
)
def tokenizer(channel_weights: str, **flags: Any) -> int:
    """Train a tokenizer: bars to pairs of ids and back."""
    return _run(functools.partial(_tokenizer_job, _numbers(channel_weights)), flags, 1.0)


@train.command()
@_options
@click.option("--tokenizer", metavar="DIR|ID", required=True, help="Who makes the ids.")
@click.option(
    "--fine-condition",
    type=click.Choice(["true", "sampled"]),
    default="true",
    show_default=True,
    help="Which coarse id the fine head sees: the true one, or a drawn one.",
)
@click.option(
    "--fine-head-rotary",
    type=click.Choice(["upstream", "trained", "none"]),
    help="How its query and keys are placed; default: the checkpoint's, else upstream.",
)
@click.option(
    "--time-features",
    metavar="NAMES",
    default="minute,hour,weekday",
    show_default=True,
    help="What a model may know of an open time: some of these, day and month, or none.",
)
def model(
    tokenizer: str,
    fine_condition: str,
    fine_head_rotary: str | None,
    time_features: str,
    **flags: Any,
) -> int:
    """Train a model on the ids of a tokenizer."""
    features = _time_features(time_features)
    job = functools.partial(_model_job, tokenizer, fine_condition, fine_head_rotary, features)
    return _run(job, flags, 0.0)


def _run(
    job: Callable[[dict[str, Any], dict[str, Any], "Ranks"], "Job"],
    flags: dict[str, Any],
    context_loss_weight: float,
) -> int:
    """Trains what `job` builds; the exit status."""
    _check_paths(flags["bars"], flags["out"])
    from .engine.environment import set_defaults

    set_defaults()
    from .training.ranks import Ranks
    from .training.run import train as trained
    from .training.settings import Running

    running = Running(**{name: flags[name] for name in Running.__struct_fields__})
    ranks = Ranks.join(running.device)
    try:
        common = _common(flags, context_loss_weight, ranks)
        what = job(flags, common, ranks)
        outcome = trained(what, running, flags["bars"], flags["out"], ranks, sys.stderr)
    finally:
        ranks.leave()
    return _ended(outcome, flags["out"], ranks)


def _ended(outcome: "Outcome", out: Path, ranks: "Ranks") -> int:
    if ranks.rank == 0:
        done = outcome.progress
        best = (
            f"best validation at step {done.best_step}" if done.best_step else "not validated yet"
        )
        where = f"step {done.step}, {best}"
        if outcome.signal is None:
            kept = f"s in {out / 'best'} and" if done.best_step else " in"
            click.echo(f"done: {where}; checkpoint{kept} {out / 'last'}", err=True)
        else:
            click.echo(f"stopped at {where}; the same command goes on from there", err=True)
    return 0 if outcome.signal is None else 128 + int(signal.Signals(outcome.signal))


def _common(flags: dict[str, Any], context_loss_weight: float, ranks: "Ranks") -> dict[str, Any]:
    """The settings that both stages share, but for what is trained."""
    from .training.settings import Cleaning, Optimisation, Sampling

    window, horizon = flags["window"], flags["horizon"]
    low, high = _split(flags["split"], window, horizon)
    weight = flags["context_loss_weight"]
    drawn = {
        "split_low": low,
        "split_high": high,
        "context_loss_weight": context_loss_weight if weight is None else weight,
    }
    kept = {"min_segment": flags["min_segment"] or window}
    rate = {
        "lr": flags["lr"] or (1e-4 if flags["from_"] else 1e-3),
        "warmup": min(100, flags["steps"] // 10) if flags["warmup"] is None else flags["warmup"],
    }
    return {
        "cleaning": Cleaning(**_fields(Cleaning, flags) | kept),
        "sampling": Sampling(**_fields(Sampling, flags) | drawn),
        "optimisation": Optimisation(**_fields(Optimisation, flags) | rate),
        "processes": ranks.world,
        **{
            name: flags[name]
            for name in ("interval", "calendar", "validate_every", "validation_windows")
        },
    }


def _fields(struct: Any, flags: dict[str, Any]) -> dict[str, Any]:
    return {name: flags[name] for name in struct.__struct_fields__ if name in flags}


def _tokenizer_job(
    channel_weights: tuple[float, ...],
    flags: dict[str, Any],
    common: dict[str, Any],
    ranks: "Ranks",
) -> "Job":
    from .model.tokenizer import KronosTokenizer
    from .training import shapes
    from .training.losses import TokenizerLoss
    from .training.run import Job

    bits = {"s1_bits": flags["s1_bits"] or 10, "s2_bits": flags["s2_bits"] or 10}
    config = shapes.tokenizer_config(
        _shape(flags, shapes.TOKENIZER_SIZES), dropout=flags["dropout"] or 0.0, **bits
    )
    module, start = _begun(KronosTokenizer, "tokenizer", flags, config, {})
    settings = _settings(
        common, stage="tokenizer", shape=module.config, start=start, channel_weights=channel_weights
    )
    return Job(settings, module, TokenizerLoss(module, channel_weights))


def _model_job(
    tokenizer: str,
    fine_condition: Any,
    fine_head_rotary: str | None,
    time_features: tuple[str, ...],
    flags: dict[str, Any],
    common: dict[str, Any],
    ranks: "Ranks",
) -> "Job":
    from .model.catalog import part_of
    from .model.checkpoints import revision_of
    from .model.kronos import Kronos
    from .model.tokenizer import KronosTokenizer
    from .training import shapes
    from .training.losses import ModelLoss
    from .training.run import Job
    from .training.settings import TIME_FEATURES

    with _named("--tokenizer"):
        encoder = KronosTokenizer.from_pretrained(part_of(tokenizer, "tokenizer"))
    bits = {"s1_bits": encoder.s1_bits, "s2_bits": encoder.s2_bits}
    window = flags["window"]
    config = shapes.model_config(
        _shape(flags, shapes.MODEL_SIZES), dropout=flags["dropout"] or 0.0, window=window, **bits
    )
    rotary = {"fine_head_rotary": fine_head_rotary} if fine_head_rotary else {}
    # A checkpoint says which windows it was trained on last: it is to be used within them.
    ids_of = {"tokenizer": revision_of(encoder)}
    trained_on = rotary | ids_of | {"interval": flags["interval"]}
    changes = trained_on | {"max_context": window}
    module, start = _begun(Kronos, "model", flags, config | trained_on, changes)
    if (module.s1_bits, module.s2_bits) != (encoder.s1_bits, encoder.s2_bits):
        raise SettingsError(
            f"--tokenizer: {tokenizer} makes ids of {encoder.s1_bits}+{encoder.s2_bits} bits, "
            f"the model of --from has {module.s1_bits}+{module.s2_bits}"
        )
    settings = _settings(
        common,
        stage="model",
        shape=module.config,
        start=start,
        **ids_of,
        fine_condition=fine_condition,
        time_features=time_features,
    )
    module.time_emb.leave_out(set(TIME_FEATURES) - set(time_features))
    encoder.to(ranks.device).requires_grad_(False)
    return Job(settings, module, ModelLoss(module, encoder.encode, fine_condition))


def _settings(common: dict[str, Any], **more: Any) -> "TrainSettings":
    from .training.settings import TrainSettings

    return TrainSettings(**common, **more)


def _begun(
    cls: Any,
    part: Literal["model", "tokenizer"],
    flags: dict[str, Any],
    config: dict[str, Any],
    changes: dict[str, Any],
) -> tuple[Any, str]:
    """A fresh module, or that of --from, and what it began with."""
    import torch

    from .model.catalog import part_of
    from .training.shapes import DROPOUTS, begun_from

    if flags["from_"] is None:
        torch.manual_seed(flags["seed"])
        return cls.from_config(config, "the shape asked for"), "scratch"
    for name in _FRESH:
        if flags.get(name) is not None:
            flag = "--" + name.replace("_", "-")
            raise SettingsError(f"{flag}: expected none with --from, which has a shape")
    if flags["dropout"] is not None:
        changes = changes | {name: flags["dropout"] for name in DROPOUTS if name in config}
    with _named("--from"):
        module, digest = begun_from(cls, part_of(flags["from_"], part), changes)
    return module, digest


@contextlib.contextmanager
def _named(flag: str) -> Iterator[None]:
    """A checkpoint that cannot be loaded is told with the flag that names it."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{flag}: {str(error).removeprefix('model: ')}") from error


def _shape(flags: dict[str, Any], sizes: dict[str, dict[str, int]]) -> dict[str, int]:
    given = {
        "n_layers": flags["layers"],
        "d_model": flags["d_model"],
        "n_heads": flags["heads"],
        "ff_dim": flags["ff_dim"],
    }
    return sizes[flags["size"] or "nano"] | {k: v for k, v in given.items() if v is not None}


def _split(text: str | None, window: int, horizon: int) -> tuple[int, int]:
    if text is None:
        low = max(2, 3 * window // 8)
        return low, max(low, window - horizon)
    low_text, _, high_text = text.partition(":")
    if not (low_text.isdecimal() and high_text.isdecimal()):
        raise SettingsError(f"--split: expected LOW:HIGH in bars such as 96:232, got {text!r}")
    return int(low_text), int(high_text)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise SettingsError(
            f"--channel-weights: expected six numbers such as 1,1,1,2,1,1, got {text!r}"
        ) from None


def _time_features(text: str) -> tuple[str, ...]:
    """In the order that a model has them."""
    from .training.settings import TIME_FEATURES

    given = set() if text == "none" else set(text.split(","))
    if not given <= set(TIME_FEATURES):
        raise SettingsError(
            f"--time-features: expected some of {','.join(TIME_FEATURES)}, or none, got {text!r}"
        )
    return tuple(name for name in TIME_FEATURES if name in given)


def _check_paths(bars: tuple[Path, ...], out: Path) -> None:
    """What can be said before torch is imported."""
    check_bars(bars)
    whole = out.absolute()
    there = next(path for path in (whole, *whole.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise InputError(f"--out: expected a folder that can be made, {there} is in the way")
