"""The official layout: what is written is read back, what does not fit is named."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from kronos_stream.errors import ModelError
from kronos_stream.model import Kronos, KronosTokenizer, checkpoints
from kronos_stream.model.checkpoints import resolve, revision_of

from ..engine.requests import tiny_pair

BUFFERS = ("inv_freq", "basis", "group_basis")


def ids(rows: int = 2, length: int = 9) -> torch.Tensor:
    return torch.randint(0, 64, (rows, length), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def coarse(model: Kronos) -> torch.Tensor:
    return model.coarse_logits(model.hidden(ids(), ids()))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with model/ and tokenizer/."""
    model, tokenizer = tiny_pair()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return tmp_path


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= changes
    kept = {key: value for key, value in config.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(kept))


def change_weights(folder: Path, **changes: Any) -> None:
    tensors = load_file(folder / "model.safetensors") | changes
    kept = {name: value for name, value in tensors.items() if value is not None}
    save_file(kept, folder / "model.safetensors")


def refused(folder: Path, part: type[Kronos] | type[KronosTokenizer] = Kronos) -> str:
    with pytest.raises(ModelError) as caught:
        part.from_pretrained(folder)
    return str(caught.value)


def test_round_trip(saved: Path) -> None:
    model, tokenizer = tiny_pair()
    assert sorted(path.name for path in (saved / "model").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    read = Kronos.from_pretrained(saved / "model")
    read_tokenizer = KronosTokenizer.from_pretrained(str(saved / "tokenizer"))
    assert not read.training
    assert not read_tokenizer.training
    assert read.config == model.config
    assert read_tokenizer.config == tokenizer.config
    for ours, theirs in ((read, model), (read_tokenizer, tokenizer)):
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        for name, tensor in ours.state_dict().items():
            assert torch.equal(tensor, theirs.state_dict()[name]), name
    assert torch.equal(coarse(read), coarse(model))
    assert revision_of(read, read_tokenizer) == revision_of(model, tokenizer)


def test_the_config_holds_the_official_keys_and_ours_only_where_set(tmp_path: Path) -> None:
    official = {
        "s1_bits", "s2_bits", "n_layers", "d_model", "n_heads", "ff_dim", "ffn_dropout_p",
        "attn_dropout_p", "resid_dropout_p", "token_dropout_p", "learn_te",
    }  # fmt: skip
    for changes, more in (
        ({"max_context": None}, set()),
        ({"n_kv_heads": 2}, {"n_kv_heads", "max_context"}),
        ({"fine_head_rotary": "none"}, {"fine_head_rotary", "max_context"}),
        ({"tokenizer": "0" * 32}, {"tokenizer", "max_context"}),
    ):
        model, _ = tiny_pair(**changes)
        model.save_pretrained(tmp_path)
        assert json.loads((tmp_path / "config.json").read_text()).keys() == official | more
        read = Kronos.from_pretrained(tmp_path)
        assert read.max_context == model.max_context
        assert read.fine_head_rotary == model.fine_head_rotary
        assert torch.equal(coarse(read), coarse(model))


def test_fixed_time_tables_are_saved_under_their_official_names(tmp_path: Path) -> None:
    model, _ = tiny_pair(learn_te=False)
    model.save_pretrained(tmp_path)
    assert "time_emb.minute_embed.emb.weight" in load_file(tmp_path / "model.safetensors")
    stamps = torch.tensor([[[5, 3, 2, 1, 12]]]).expand(2, 9, 5)
    read = Kronos.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(read.hidden(ids(), ids(), stamps), model.hidden(ids(), ids(), stamps))


def test_keys_of_others_in_the_config_are_passed_over(saved: Path) -> None:
    change_config(saved / "model", architectures=["Kronos"], torch_dtype="float32")
    assert torch.equal(coarse(Kronos.from_pretrained(saved / "model")), coarse(tiny_pair()[0]))


def test_half_precision_weights_run_in_float32(saved: Path) -> None:
    model, tokenizer = tiny_pair()
    model.save_pretrained(saved / "half", dtype=torch.float16)
    tokenizer.save_pretrained(saved / "half_tokenizer", dtype=torch.float16)
    assert load_file(saved / "half" / "model.safetensors")["norm.weight"].dtype == torch.float16
    read = Kronos.from_pretrained(saved / "half")
    assert {p.dtype for p in read.parameters()} == {torch.float32}
    torch.testing.assert_close(coarse(read), coarse(model), atol=2e-2, rtol=0)
    assert revision_of(read) != revision_of(model)
    basis = KronosTokenizer.from_pretrained(saved / "half_tokenizer").state_dict()
    assert not next(v for k, v in basis.items() if k.endswith(".basis")).is_floating_point()


def test_computed_buffers_are_written_and_may_be_missing(saved: Path) -> None:
    seen = set()
    for part, name in ((Kronos, "model"), (KronosTokenizer, "tokenizer")):
        whole = part.from_pretrained(saved / name)
        tensors = load_file(saved / name / "model.safetensors")
        buffers = {key for key in tensors if key.rsplit(".", 1)[-1] in BUFFERS}
        seen |= {key.rsplit(".", 1)[-1] for key in buffers}
        change_weights(saved / name, **dict.fromkeys(buffers))
        bare = part.from_pretrained(saved / name)
        assert revision_of(bare) == revision_of(whole)
        for key, tensor in bare.state_dict().items():
            assert torch.equal(tensor, whole.state_dict()[key]), key
    assert seen == set(BUFFERS)


def test_nothing_is_computed_from_the_saved_rotary_buffer(saved: Path) -> None:
    name = "transformer.0.self_attn.rotary.inv_freq"
    frequencies = load_file(saved / "model" / "model.safetensors")[name]
    change_weights(saved / "model", **{name: torch.zeros_like(frequencies)})
    assert torch.equal(coarse(Kronos.from_pretrained(saved / "model")), coarse(tiny_pair()[0]))


def test_the_revision_is_of_weights_and_config_alone(saved: Path, tmp_path: Path) -> None:
    model, tokenizer = tiny_pair()
    assert revision_of(model, tokenizer) == revision_of(*tiny_pair())
    assert revision_of(model) != revision_of(tiny_pair(seed=1)[0])
    assert revision_of(model) != revision_of(tiny_pair(max_context=96)[0])
    with torch.no_grad():
        model.norm.weight[0] += 1e-6
    assert revision_of(model) != revision_of(tiny_pair()[0])


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / "model" / name).unlink()
    message = refused(saved / "model")
    assert str(saved / "model" / name) in message
    assert "not found" in message


@pytest.mark.parametrize("name", ["absent", "./absent", "one/two/three", "../absent"])
def test_what_is_neither_a_folder_nor_a_hub_id_is_refused_offline(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_hub(*args: Any, **options: Any) -> str:
        raise AssertionError(f"asked the hub for {args}")

    monkeypatch.setattr(checkpoints, "snapshot_download", no_hub)
    with pytest.raises(ModelError, match=r"expected a folder .* or a hub id"):
        Kronos.from_pretrained(name)


def test_a_missing_folder_by_its_absolute_path(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="expected a folder"):
        Kronos.from_pretrained(tmp_path / "absent")


@pytest.mark.parametrize(
    "content", [b"{", b"", b"[1, 2]", b'"text"', b"\xff\xfe", b"[" * 100_000], ids=len
)
def test_a_broken_config(saved: Path, content: bytes) -> None:
    (saved / "model" / "config.json").write_bytes(content)
    message = refused(saved / "model")
    assert str(saved / "model" / "config.json") in message
    assert "expected a JSON object" in message


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"d_model": ..., "n_heads": ...}, "needs the keys d_model, n_heads"),
        ({"d_model": "32"}, "d_model: expected an integer >= 1, got '32'"),
        ({"n_layers": [2]}, "n_layers: expected an integer >= 1, got [2]"),
        ({"n_layers": None}, "n_layers: expected an integer >= 1, got None"),
        ({"n_layers": 2.5}, "n_layers: expected an integer >= 1, got 2.5"),
        ({"n_layers": True}, "n_layers: expected an integer >= 1, got True"),
        ({"n_heads": 0}, "n_heads: expected an integer >= 1, got 0"),
        ({"d_model": -32}, "d_model: expected an integer >= 1, got -32"),
        ({"max_context": 100.5}, "max_context: expected an integer >= 1, got 100.5"),
        ({"max_context": 0}, "max_context: expected an integer >= 1, got 0"),
        ({"s1_bits": 63}, "s1_bits: expected an integer >= 1 and <= 24, got 63"),
        ({"ffn_dropout_p": 1.5}, "ffn_dropout_p: expected a number >= 0 and <= 1, got 1.5"),
        ({"learn_te": "yes"}, "learn_te: expected true or false, got 'yes'"),
        (
            {"fine_head_rotary": "sideways"},
            "fine_head_rotary: expected none or trained or upstream, got 'sideways'",
        ),
        ({"fine_head_rotary": 1}, "fine_head_rotary: expected none or trained or upstream, got 1"),
        ({"n_heads": 5}, "n_heads"),
        ({"n_kv_heads": 3}, "n_kv_heads must divide"),
    ],
)
def test_a_config_of_which_nothing_can_be_built(
    saved: Path, changes: dict[str, Any], expected: str
) -> None:
    change_config(saved / "model", **changes)
    message = refused(saved / "model")
    assert expected in message
    assert str(saved / "model" / "config.json") in message


def test_an_error_that_says_nothing_is_told_by_its_kind(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("kronos_stream.model.kronos.TokenEmbedding", full)
    assert refused(saved / "model").endswith("no Kronos can be built of it: MemoryError")


def test_a_tokenizer_is_not_a_model(saved: Path) -> None:
    assert "a Kronos needs the keys" in refused(saved / "tokenizer")
    assert "a KronosTokenizer needs the keys" in refused(saved / "model", KronosTokenizer)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"norm.weight": None}, "1 missing ['norm.weight'], 0 unknown"),
        ({"extra.weight": torch.ones(2)}, "0 missing [], 1 unknown ['extra.weight']"),
        ({"norm.weight": torch.ones(31)}, "norm.weight has shape (31,), the config says (32,)"),
        ({"norm.weight": torch.ones(1, 32)}, "norm.weight has shape (1, 32)"),
        ({"norm.weight": torch.full((32,), torch.nan)}, "norm.weight holds values that are not"),
        ({"norm.weight": torch.full((32,), torch.inf)}, "norm.weight holds values that are not"),
        ({"norm.weight": torch.ones(32, dtype=torch.int8)}, "norm.weight is torch.int8, expected"),
        ({"norm.weight": torch.ones(32, dtype=torch.bool)}, "norm.weight is torch.bool, expected"),
    ],
)
def test_weights_that_do_not_belong_to_the_config(
    saved: Path, changes: dict[str, Any], expected: str
) -> None:
    change_weights(saved / "model", **changes)
    message = refused(saved / "model")
    assert expected in message
    assert str(saved / "model" / "model.safetensors") in message


def test_weights_are_saved_as_floating_point_numbers_alone(saved: Path, tmp_path: Path) -> None:
    model = Kronos.from_pretrained(saved / "model")
    with pytest.raises(ModelError, match=r"dtype: expected torch.float32, .* got torch.int8"):
        model.save_pretrained(tmp_path / "int8", dtype=torch.int8)


@pytest.mark.parametrize("name", [None, 123, b"model"])
def test_a_name_is_text_or_a_path(name: Any) -> None:
    with pytest.raises(ModelError, match="expected a folder or a hub id, got"):
        Kronos.from_pretrained(name)


def test_a_config_with_more_layers_than_weights(saved: Path) -> None:
    change_config(saved / "model", n_layers=3)
    assert "missing ['transformer.2." in refused(saved / "model")


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_cut_off_weights_file(saved: Path, keep: int) -> None:
    path = saved / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "not a safetensors file" in refused(saved / "model")


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_pickled_weights_are_refused_and_never_unpickled(saved: Path, name: str) -> None:
    trace = saved / "unpickled"
    (saved / "model" / "model.safetensors").unlink()
    (saved / "model" / name).write_bytes(pickle.dumps(Trap(trace)))
    assert "model.safetensors" in refused(saved / "model")
    assert not trace.exists()


def test_a_folder_goes_before_a_hub_id(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(saved.parent)
    monkeypatch.setattr(checkpoints, "snapshot_download", None)
    assert resolve(f"{saved.name}/model") == Path(f"{saved.name}/model")


def test_others_may_read_the_weights(saved: Path) -> None:
    modes = {path.stat().st_mode for path in (saved / "model").iterdir()}
    assert len(modes) == 1


def test_what_cannot_be_read_says_why(saved: Path) -> None:
    weights = saved / "model" / "model.safetensors"
    weights.unlink()
    weights.mkdir()
    assert refused(saved / "model") == f"{weights}: cannot be read: Is a directory"
    config = saved / "model" / "config.json"
    config.unlink()
    config.mkdir()
    assert refused(saved / "model") == f"{config}: cannot be read: Is a directory"


def test_a_tokenizer_of_other_channels_is_refused(saved: Path) -> None:
    change_config(saved / "tokenizer", d_in=5)
    assert "d_in must be 6 (open, high, low" in refused(saved / "tokenizer", KronosTokenizer)
