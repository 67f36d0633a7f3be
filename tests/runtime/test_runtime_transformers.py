"""transformers: the same network, bit for bit, from a bound folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import unclone
from unclone import Device, DeviceKey
from unclone.errors import FormatError, ParameterError, SlotError

os.environ["HF_HUB_OFFLINE"] = "1"
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from unclone.runtime.transformers import from_pretrained  # noqa: E402 (needs transformers)

SMALL = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
NETWORKS: dict[str, tuple[str, Any]] = {
    "bert": ("AutoModel", lambda: transformers.BertConfig(**SMALL)),
    "gpt2": ("AutoModelForCausalLM", lambda: transformers.GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4)),
    "llama": ("AutoModelForCausalLM", lambda: transformers.LlamaConfig(**SMALL, num_key_value_heads=2)),
    "t5": (
        "AutoModelForSeq2SeqLM",
        lambda: transformers.T5Config(
            vocab_size=99, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4, decoder_start_token_id=0
        ),
    ),
}
TOKENS = torch.arange(10)[None]


@pytest.fixture(autouse=True)
def quiet() -> None:
    transformers.utils.logging.disable_progress_bar()


def logits(model: Any) -> Any:
    more = {"decoder_input_ids": TOKENS} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model.eval()(TOKENS, **more)[0]


@pytest.mark.filterwarnings("default")  # the libraries' own
@pytest.mark.parametrize("shards", ["5GB", "20KB"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_network(name: str, dtype: str, shards: str, device: Device, key: DeviceKey, tmp_path: Path) -> None:
    auto, config = getattr(transformers, NETWORKS[name][0]), NETWORKS[name][1]()
    torch.manual_seed(0)
    auto.from_config(config).to(getattr(torch, dtype)).save_pretrained(tmp_path / "plain", max_shard_size=shards)
    unclone.bind(tmp_path / "plain", device, tmp_path / "bound")
    plain = auto.from_pretrained(tmp_path / "plain")
    mine = from_pretrained(auto, tmp_path / "bound", key)
    assert type(mine) is type(plain)
    assert torch.equal(logits(mine), logits(plain))
    assert mine.dtype == plain.dtype
    assert {n: b.tolist() for n, b in mine.named_buffers()} == {n: b.tolist() for n, b in plain.named_buffers()}
    tied = [[n for n, p in m.named_parameters(remove_duplicate=False)] for m in (mine, plain)]
    shared = [len({p.data_ptr() for _, p in m.named_parameters(remove_duplicate=False)}) for m in (mine, plain)]
    assert tied[0] == tied[1]
    assert shared[0] == shared[1]
    stolen = auto.from_pretrained(tmp_path / "bound")  # loads, and is useless
    assert not torch.equal(logits(stolen), logits(plain))
    assert type(from_pretrained(type(plain), tmp_path / "bound", key, dtype=torch.float16)) is type(plain)


@pytest.mark.filterwarnings("default")
def test_what_is_refused(device: Device, key: DeviceKey, other_key: DeviceKey, tmp_path: Path) -> None:
    auto = transformers.AutoModel
    auto.from_config(NETWORKS["bert"][1]()).save_pretrained(tmp_path / "plain")
    unclone.bind(tmp_path / "plain", device, tmp_path / "bound")
    with pytest.raises(SlotError):
        from_pretrained(auto, tmp_path / "bound", other_key)
    with pytest.raises(ParameterError, match="state_dict"):
        from_pretrained(auto, tmp_path / "bound", key, state_dict={})
    with pytest.raises(FormatError, match=r"config\.json"):
        from_pretrained(auto, tmp_path, key)


@pytest.mark.filterwarnings("default")
def test_generation_settings_come_along(device: Device, key: DeviceKey, tmp_path: Path) -> None:
    auto = transformers.AutoModelForCausalLM
    model = auto.from_config(NETWORKS["gpt2"][1]())
    model.generation_config.max_length = 77
    model.save_pretrained(tmp_path / "plain")
    unclone.bind(tmp_path / "plain", device, tmp_path / "bound")
    assert from_pretrained(auto, tmp_path / "bound", key).generation_config.max_length == 77


@pytest.mark.filterwarnings("default")
def test_arguments_that_go_to_the_configuration(device: Device, key: DeviceKey, tmp_path: Path) -> None:
    transformers.BertModel(NETWORKS["bert"][1]()).save_pretrained(tmp_path / "plain")
    unclone.bind(tmp_path / "plain", device, tmp_path / "bound")
    model, said = from_pretrained(
        transformers.AutoModelForSequenceClassification,
        tmp_path / "bound",
        key,
        num_labels=7,
        dtype="auto",
        output_loading_info=True,
    )
    assert model.classifier.out_features == 7
    assert model.name_or_path == str(tmp_path / "bound")
    assert set(said["missing_keys"]) == {"classifier.weight", "classifier.bias"}


@pytest.mark.filterwarnings("default")
def test_no_model_and_no_configuration(device: Device, key: DeviceKey, tmp_path: Path) -> None:
    transformers.BertModel(NETWORKS["bert"][1]()).save_pretrained(tmp_path / "plain")
    unclone.bind(tmp_path / "plain", device, tmp_path / "bound")
    with pytest.raises(ParameterError, match="no class of models"):
        from_pretrained(transformers.AutoConfig, tmp_path / "bound", key)
    (tmp_path / "bound" / "config.json").write_text("{nope")
    with pytest.raises(FormatError, match=r"config\.json"):
        from_pretrained(transformers.AutoModel, tmp_path / "bound", key)
