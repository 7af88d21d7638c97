"""Times attaching a LoRA to a Llama of 224 linear layers, its forward pass and its step, beside another checkout.

    python benchmarks/attach_speed.py --beside ../other/src        runs both in turn and prints medians and their ratio
    python benchmarks/attach_speed.py                               this checkout alone

Processes alternate, each with a fresh model. Within one, what counts is the processor's time, and the best of several,
as a machine that has other work only ever adds to it. The model is tiny, so that what is measured is what the library
does around each layer.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src"
WHAT = ("attach", "forward", "step", "attach and first step")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", type=Path, help="the folder src of another checkout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        print(json.dumps(measure()))
        return
    found: dict[str, list[dict[str, float]]] = {"this": [], "other": []}
    for _ in range(asked.rounds):
        for name, source in (("this", SOURCE), ("other", asked.beside)):
            if source is not None:
                found[name].append(run(source))
    for what in WHAT:
        medians = {name: statistics.median(r[what] for r in runs) for name, runs in found.items() if runs}
        ratio = f"   ratio {medians['this'] / medians['other']:.3f}" if len(medians) == 2 else ""
        print(f"{what:22}", "   ".join(f"{name} {1e3 * s:.2f} ms" for name, s in medians.items()), ratio)


def run(source: Path) -> dict[str, float]:
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--measure"]
    return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def measure() -> dict[str, float]:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    import inlay

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=32, num_attention_heads=2, vocab_size=32
    )
    model = LlamaForCausalLM(config)
    ids = torch.randint(0, 32, (1, 8))

    def attach() -> None:
        inlay.attach(model, inlay.LoRA(rank=2))

    def detach() -> None:
        inlay.adapters(model)["default"].detach()

    def step() -> None:
        model(input_ids=ids, use_cache=False).logits.sum().backward()

    def forward() -> None:
        with torch.no_grad():
            model(input_ids=ids, use_cache=False)

    def first_step() -> None:
        attach()
        step()

    attach()
    detach()  # what is computed once a process
    times = {"attach": best(attach, 8, after=detach), "attach and first step": best(first_step, 4, after=detach)}
    attach()
    step()
    return times | {"forward": best(forward, 20), "step": best(step, 12)}


def best(work: Callable[[], None], times: int, after: Callable[[], None] = lambda: None) -> float:
    found = []
    for _ in range(times):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
        after()
    return min(found)


if __name__ == "__main__":
    main()
