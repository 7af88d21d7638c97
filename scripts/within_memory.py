"""Whether a base that the memory does not hold is trained all the same: in 4 bits, and streamed from its files.

    python scripts/within_memory.py FOLDER

makes a random Llama of 1.56 billion parameters in FOLDER (3.1 GB in bfloat16, unless it is there) and trains it for
three steps: in NF4 by a process that is held to 2.5 GB; streamed by one that is held to a third of the base's size; and
without a limit, to compare with. Ends with exit code 1 if a run fails, or if the streamed gradients or adapter are not
bit for bit those of the base in memory; with 77 where it cannot set limits, which takes root and Linux.

The limit is a memory cgroup's, since it counts what the process really takes: memory of its own and the pages of files
that it has read, of which the kernel takes back as many as it must. The limits of `ulimit` are none: they count the
addresses of mapped files (-v), even though these take nothing until they are read, or count no memory that is in use
(-m). The files are dropped from the kernel's cache before each run, or else their pages would be on nobody's account.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

import inlay
from inlay.bases.base import find_base
from inlay.bases.loading import load_onto
from inlay.data.source import BUILTIN_FOLDER

HIDDEN, INNER, LAYERS, HEADS, KEY_HEADS = 2048, 6912, 28, 16, 8
OF_A_SHARD = 4  # layers
GROUPS = Path("/sys/fs/cgroup")
TRAIN = ("--method", "lora", "--epochs", "1", "--batch-size", "4", "--evaluations-per-epoch", "1", "--device", "cpu")
QUIET = ("--samples", "0", "--no-forgetting", "--dtype", "bfloat16", "--learning-rate", "1e-3")


def make_base(folder: Path) -> None:
    """Write the base one shard after the other, so that making it takes little memory."""
    folder.mkdir(parents=True)
    tokenizer = AutoTokenizer.from_pretrained(BUILTIN_FOLDER / "tiny-lm")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    generator = torch.Generator().manual_seed(0)

    def drawn(*size: int) -> torch.Tensor:
        return (torch.randn(*size, generator=generator) * 0.02).to(torch.bfloat16)

    ones = torch.ones(HIDDEN, dtype=torch.bfloat16)
    keys = KEY_HEADS * HIDDEN // HEADS
    linears = {
        "self_attn.q_proj": (HIDDEN, HIDDEN),
        "self_attn.k_proj": (keys, HIDDEN),
        "self_attn.v_proj": (keys, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (INNER, HIDDEN),
        "mlp.up_proj": (INNER, HIDDEN),
        "mlp.down_proj": (HIDDEN, INNER),
    }
    places, total = {}, 0
    for first in range(0, LAYERS, OF_A_SHARD):
        shard = {}
        if first == 0:
            shard |= {f"{name}.weight": drawn(len(tokenizer), HIDDEN) for name in ("model.embed_tokens", "lm_head")}
            shard["model.norm.weight"] = ones.clone()
        for layer in range(first, min(first + OF_A_SHARD, LAYERS)):
            shard |= {f"model.layers.{layer}.{name}.weight": drawn(*size) for name, size in linears.items()}
            for name in ("input_layernorm", "post_attention_layernorm"):
                shard[f"model.layers.{layer}.{name}.weight"] = ones.clone()
        file = f"model-{first // OF_A_SHARD:05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(shard, file)
        total += sum(tensor.nbytes for tensor in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    tokenizer.save_pretrained(folder)
    config.save_pretrained(folder)


def make_data(folder: Path) -> None:
    """Write twelve rows to learn from, which are three steps, and four to be scored on."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in {"train": range(12), "valid": range(12, 16)}.items():
        texts = [{"text": f"The row {n} says red, green and blue {n} times, and ends."} for n in rows]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))


def write_gradients(base: Path, out: Path, *, stream: bool) -> None:
    """Write what one loss gives every parameter of a LoRA whose matrices are both not zero."""
    found = find_base(str(base))
    model = load_onto(
        torch.device("cpu"),
        lambda take: (found.load(AutoModelForCausalLM, None, take, dtype=torch.bfloat16)[0], ()),
        0,
        None,
        found if stream else None,
    ).model
    adapter = inlay.attach(model, inlay.LoRA(rank=4))
    torch.manual_seed(1)
    with torch.no_grad():
        for p in adapter.parameters():
            p.add_(torch.randn_like(p), alpha=0.01)
    ids = torch.randint(0, model.config.vocab_size, (2, 48))
    model.train()
    model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids, use_cache=False).loss.backward()
    save_file({name: p.grad for name, p in adapter.named_parameters() if p.grad is not None}, out)


@dataclass
class Group:
    """A memory cgroup of the first or second kind, for one process and what it starts."""

    folder: Path
    limit: str  # the file's name
    peak: str

    def set(self, limit: int) -> None:
        (self.folder / self.limit).write_text(str(limit))

    def enter(self) -> None:
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def peak_bytes(self) -> int:
        return int((self.folder / self.peak).read_text())


@contextmanager
def group() -> Iterator[Group]:
    """Make a cgroup, and remove it in the end. Raises OSError if this machine or user cannot."""
    name = f"inlay-within-{os.getpid()}"
    if (GROUPS / "cgroup.controllers").is_file():
        (GROUPS / "cgroup.subtree_control").write_text("+memory")
        made = Group(GROUPS / name, "memory.max", "memory.peak")
    else:
        made = Group(GROUPS / "memory" / name, "memory.limit_in_bytes", "memory.max_usage_in_bytes")
    made.folder.mkdir()
    try:
        yield made
    finally:
        made.folder.rmdir()


def run(what: str, command: list[str], base: Path, limit: int | None, before: Callable[[], None] | None = None) -> bool:
    """Run the command, within a limit if there is one, and print what it took; returns whether it ended well.

    `before` is what the process does first.
    """
    for file in base.glob("*.safetensors"):
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with group() as limited:
        if limit is not None:
            limited.set(limit)
        began = time.perf_counter()

        def enter() -> None:
            limited.enter()
            if before is not None:
                before()

        process = subprocess.Popen(command, preexec_fn=enter, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        most: dict[str, int] = {}
        watch = threading.Thread(target=_watch, args=(process, most))
        watch.start()
        said = process.communicate()[0].decode()
        watch.join()
        most["charged"] = limited.peak_bytes()
    seconds = time.perf_counter() - began
    held = "no limit" if limit is None else f"held to {limit / 1e9:.2f} GB"
    peaks = ", ".join(f"{name} {bytes / 1e9:.2f}" for name, bytes in most.items())
    print(f"{what:<20} {held:<16} exit {process.returncode}  {seconds:4.0f} s  GB at most: {peaks}", flush=True)
    if process.returncode:
        print(said[-2000:])
    return process.returncode == 0


def _watch(process: "subprocess.Popen[bytes]", most: dict[str, int]) -> None:
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        try:
            found = re.findall(r"^(VmRSS|RssAnon|RssFile):\s*(\d+) kB", status.read_text(), re.MULTILINE)
        except OSError:
            return
        for name, kilobytes in found:
            most[name] = max(most.get(name, 0), 1024 * int(kilobytes))
        time.sleep(0.02)


def can_be_limited() -> bool:
    """Tell whether a control group can be made here, and say why if not."""
    try:
        with group():
            return True
    except OSError as problem:
        print(f"no limit can be set: {problem}")
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gradients", choices=("resident", "streamed"), help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs="+", default=("nf4", "stream"), choices=("nf4", "stream"))
    asked = parser.parse_args()
    folder: Path = asked.folder
    base, data = folder / "base", folder / "data"
    if asked.gradients:
        write_gradients(base, folder / f"{asked.gradients}.safetensors", stream=asked.gradients == "streamed")
        return 0
    if not can_be_limited():
        return 77
    if not (base / "config.json").is_file():
        make_base(base)
    make_data(data)
    size = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    print(f"base: {size / 1e9:.2f} GB in bfloat16")

    def train(name: str, *more: str, limit: int | None) -> Callable[[], bool]:
        out = folder / name
        command = [sys.executable, "-m", "inlay", "train", str(base), str(data), *TRAIN, *QUIET, "--out", str(out)]
        subprocess.run(["rm", "-rf", str(out)], check=True)
        return lambda: run(f"train {name}", [*command, *more], base, limit)

    def gradients(kind: str, limit: int | None) -> Callable[[], bool]:
        command = [sys.executable, __file__, str(folder), "--gradients", kind]
        return lambda: run(f"gradients {kind}", command, base, limit)

    third = size // 3
    runs: list[Callable[[], bool]] = []
    if "nf4" in asked.only:
        runs.append(train("nf4", "--quantize", "nf4", limit=2_500_000_000))
    if "stream" in asked.only:
        runs += [gradients("resident", None), gradients("streamed", third)]
        runs += [train("resident", limit=None), train("streamed", "--stream", limit=third)]
    ended_well = all([each() for each in runs])
    if not ended_well or "stream" not in asked.only:
        return 0 if ended_well else 1
    both = [load_file(folder / f"{kind}.safetensors") for kind in ("resident", "streamed")]
    same = both[0].keys() == both[1].keys() and all(torch.equal(both[0][name], both[1][name]) for name in both[0])
    files = [folder / kind / "adapter" / "adapter_model.safetensors" for kind in ("resident", "streamed")]
    equal = files[0].read_bytes() == files[1].read_bytes()
    print(f"{len(both[0])} gradients {'are' if same else 'are NOT'} equal bit for bit; ", end="")
    print(f"the adapters after three steps {'are' if equal else 'are NOT'} equal byte for byte")
    return 0 if same and equal else 1


if __name__ == "__main__":
    sys.exit(main())
