"""``unclone evaluate`` and ``unclone attack`` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from unclone.cli.app import run


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNCLONE_CACHE", str(tmp_path / "cache"))


def test_evaluate_prints_what_a_reviewer_asks_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "report.html"
    words = ["evaluate", "--task", "digits", "--profile", "quick", "--attack", "use-as-is", "--backend", "sequential"]
    assert run([*words, "--html", str(page), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["verdict"].startswith("Protected")
    assert value["protected"] is True
    row = value["attacks"][0]
    assert {"name", "accuracy", "baseline", "spread", "gain", "cost", "verdict"} <= set(row)
    assert row["accuracy"] < 0.3 < value["task"]["original"]
    assert value["seeds"] == [0, 1, 2]
    assert value["versions"]["unclone"]
    assert value["verdict"][:30] in page.read_text()
    assert run([*words, "--html", str(page)]) == 2  # it is there already
    assert run(words) == 0
    assert "use-as-is" in capsys.readouterr().out


def test_attack_runs_one_and_lists_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["attack", "use-as-is", "--task", "digits", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["gain"] == pytest.approx(value["accuracy"] - value["baseline"])
    assert run(["attack", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert "use-as-is" in [item["name"] for item in listed["attacks"]]
    assert "unclone" in [item["name"] for item in listed["schemes"]]
    assert run(["attack", "--list"]) == 0
    assert "mnist-cnn" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evaluate"], "name a task"),
        (["evaluate", "m.onnx"], "needs --data"),
        (["evaluate", "m.onnx", "--task", "digits"], "one of the two"),
        (["evaluate", "--task", "digits", "--data", "d.npz"], "a model of your own"),
        (["evaluate", "--task", "imagenet"], "no task"),
        (["evaluate", "--task", "digits", "--scheme", "rot13"], "no scheme"),
        (["evaluate", "--task", "digits", "--attack", "wishing"], "no attack"),
        (["evaluate", "--task", "digits", "--profile", "leisurely"], "profile"),
        (["attack", "wishing", "--task", "digits"], "no attack"),
        (["attack", "use-as-is", "--task", "digits", "--effort", "0"], "effort"),
    ],
)
def test_a_mistake_is_named(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 2
    assert said in capsys.readouterr().err


def test_a_model_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weight = rng.standard_normal((16, 4)).astype(np.float32)
    inputs = rng.standard_normal((300, 16)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    np.savez(tmp_path / "d.npz", x=inputs, y=(inputs @ weight).argmax(axis=1))
    words = ["evaluate", str(tmp_path / "m.onnx"), "--data", str(tmp_path / "d.npz"), "--profile", "quick"]
    assert run([*words, "--attack", "use-as-is", "--backend", "sequential", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["task"]["original"] == 1.0
    assert value["task"]["trainable"]
    assert value["attacks"][0]["accuracy"] < 0.8
