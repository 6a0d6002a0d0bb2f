"""What a predictor is made of and asked for, and what of it is refused."""

from typing import Any

import pytest

from kronos_stream.errors import InputError, ModelError
from kronos_stream.model import KronosPredictor

from ..engine.requests import tiny_pair
from .predicting import STEPS, frame, predictor, times


def test_max_context_is_the_models_unless_named() -> None:
    assert predictor().max_context == 128
    assert predictor(max_context=40).max_context == 40
    for wrong in (-1, 0, False, 2.5, "many"):
        with pytest.raises(InputError, match="max_context: expected an integer of 1 or more, got"):
            predictor(max_context=wrong)


def test_more_than_the_models_context_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert predictor(max_context=129).max_context == 129
    assert caplog.messages == ["max_context 129 is more than the model's own, 128"]


def test_upstreams_arguments_by_position() -> None:
    assert KronosPredictor(*tiny_pair(), "cpu", 100, 5).max_context == 100
    with pytest.raises(InputError, match="clip: expected 5, got 3"):
        predictor(clip=3)


def test_a_pair_that_does_not_fit() -> None:
    (model, tokenizer), (wider, _) = tiny_pair(), tiny_pair(s1_bits=7)
    pairs: list[tuple[Any, Any, str]] = [
        (wider, tokenizer, r"tokenizer: .* ids of 6\+6 bits, the model .* expects 7\+6"),
        (tokenizer, model, "model: expected a .*Kronos, got .*KronosTokenizer"),
        (model, "builtin", "tokenizer: expected a .*KronosTokenizer, got builtins.str"),
        (tiny_pair()[0].half(), tokenizer, "model: expected weights in torch.float32, got"),
    ]
    for one, other, expected in pairs:
        with pytest.raises(ModelError, match=expected):
            KronosPredictor(one, other, device="cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", 1.5])
def test_a_device_that_is_not_there(device: Any) -> None:
    with pytest.raises(InputError, match="device: expected a device that torch can use here, got"):
        KronosPredictor(*tiny_pair(), device)


@pytest.mark.parametrize("levels", [None, 0.5, ["a"]])
def test_levels_that_are_none(levels: Any) -> None:
    with pytest.raises(InputError, match="quantile_levels: expected a list of numbers"):
        predictor().predict_quantiles(frame(), *times(), STEPS, quantile_levels=levels)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((frame(), None, times()[1]), "series 0: x_timestamp: expected a sequence, got NoneType"),
        ((frame(), times()[0], None), "series 0: y_timestamp: expected a sequence, got NoneType"),
        ((None, *times()), "series 0: expected a pandas DataFrame, got NoneType"),
    ],
)
def test_what_has_no_length(given: tuple[Any, Any, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        predictor().predict(*given, STEPS)
    with pytest.raises(InputError, match="df_list: expected a sequence, got NoneType"):
        predictor().predict_batch(None, [], [], STEPS)  # type: ignore[arg-type]
