"""A whole fine-tuning run on the CPU, Inlay against what else there is for it: time and peak memory.

    pip install peft trl datasets
    python benchmarks/peers.py [--data ../shared/data/alpaca] [--rows 160] [--rounds 3] [--sides inlay peft trl ...]

`lora` of rank 16 on every linear layer of a random Llama of 8 layers x 512 with 32,000 tokens, in bfloat16 (`--dtype
float32` where a processor has none, which the targets are not for); one epoch over rows of a prompt and completion, of
which the completion is learned, 8 rows a step, at most 512 tokens a row. All sides read the same files, and the tokens
that they train on and learn must be as many. They take turns, each in a process of its own. A side whose packages are
not installed is left out.

    inlay        `inlay.training.run.train` as it comes: rows packed, loss in chunks, adapter in float32
    peft         peft and transformers.Trainer, padded rows of like length
    peft-joined  the same with DataCollatorWithFlattening: a step's rows, in random order, one after the other
    trl          TRL's SFTTrainer, padded rows of like length
    trl-joined   the same with padding_free=True, which its authors offer for attention on GPUs only

`training` is from the first batch to the last optimizer step. `whole` is from loaded libraries to the saved adapter:
model and rows loaded, rows tokenized, model trained. For Inlay it also has the passes of its cost estimate, three
evaluations of 4 rows, and its report; the others evaluate nothing. Processor seconds are given too, since other
programs disturb them less. Memory is the process's peak, libraries and all. Inlay's whole time must be at most 0.6 of
peft's and 0.2 of trl's, and its memory half of peft's.

The padded sides' settings are the fastest found, by processor time with one thread and 64 rows, in one run each, so
that a few percent mean little. For peft that is an adapter in bfloat16 (autocast_adapter_dtype=False) without autocast.
With autocast (bf16=True) it took 5 % more time and 13 % less memory; with an adapter in float32, 10 % more time with
autocast and 17 % without; with eager attention, or lengths padded to multiples of 8, 12 % more. For TRL autocast makes
no difference; gradient checkpointing and rows in random order, its defaults, took 26 % more. Logging, saving and
workers are off.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

NEEDS = {
    "inlay": ("inlay",),
    "peft": ("peft",),
    "peft-joined": ("peft",),
    "trl": ("trl", "peft", "datasets"),
    "trl-joined": ("trl", "peft", "datasets"),
}
TARGETS = (("peft", "whole", 0.6), ("peft", "memory", 0.5), ("trl", "whole", 0.2))
BATCH, RANK, ALPHA, LEARNING_RATE = 8, 16, 32, 1e-3
EVALUATED = 4

Found = dict[str, float]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared/data/alpaca")
    options.add_argument("--rows", type=int, default=160)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--threads", type=int, help="default: torch's own")
    options.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    options.add_argument("--sides", nargs="+", choices=NEEDS, default=list(NEEDS))
    options.add_argument("--step", choices=("prepare", *NEEDS), help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.step == "prepare":
        prepare(chosen.folder, chosen.data, chosen.rows, chosen.dtype)
    elif chosen.step:
        measure(chosen.step, chosen.folder, chosen.out, chosen.threads)
    else:
        take_turns([side for side in chosen.sides if is_installed(side)], chosen.rounds)


def is_installed(side: str) -> bool:
    missing = [package for package in NEEDS[side] if importlib.util.find_spec(package) is None]
    if missing:
        print(f"{side} is left out: {' and '.join(missing)} not installed; pip install peft trl datasets")
    return not missing


def take_turns(sides: list[str], rounds: int) -> None:
    found: dict[str, list[Found]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        in_a_process("--step", "prepare", "--folder", str(folder))
        print("{rows} rows, {tokens} tokens, of which {learned} are learned".format(**read(folder / "tokens.json")))
        for turn in range(1, rounds + 1):
            for side in sides:
                out = folder / f"{side}-{turn}"
                in_a_process("--step", side, "--folder", str(folder), "--out", str(out))
                found[side].append(read(out / "found.json"))
                print(f"{turn}. {side:12} {told(found[side][-1])}", flush=True)
    print("medians")
    for side, its in found.items():
        print(f"   {side:12} {told({key: median(one[key] for one in its) for key in its[0]})}")
    if "inlay" in found:
        compare(found)


def compare(found: dict[str, list[Found]]) -> None:
    """Prints Inlay's share of what each other side takes; fails if a target is missed."""
    missed = []
    ours = found["inlay"]
    for side in (side for side in found if side != "inlay"):
        print(f"inlay / {side}: the ratio of the medians, and the median of the ratios")
        for key in ("training", "whole", "training, processor", "whole, processor", "memory"):
            of_medians = median(one[key] for one in ours) / median(one[key] for one in found[side])
            of_rounds = median(a[key] / b[key] for a, b in zip(ours, found[side], strict=True))
            target = next((most for name, what, most in TARGETS if (name, what) == (side, key)), None)
            print(f"   {key:20} {of_medians:.2f}  {of_rounds:.2f}" + (f"  at most {target}" if target else ""))
            if target and of_medians > target:
                missed.append(f"{key} against {side}")
    if missed:
        raise SystemExit(f"missed: {', '.join(missed)}")


def told(found: Found) -> str:
    return (
        "training {training:6.1f} s ({training, processor:5.1f} s of processor), "
        "whole {whole:6.1f} s ({whole, processor:5.1f} s), {memory:5.0f} MiB, mean loss {loss:.2f}"
    ).format(**found)


def in_a_process(*arguments: str) -> None:
    # A process's peak starts with what its parent holds, so this one loads nothing.
    command = [sys.executable, __file__, *sys.argv[1:], *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    if done.returncode:
        raise SystemExit(f"{done.stderr}\nfailed: {' '.join(command)}")


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def prepare(folder: Path, data: Path, count: int, dtype: str) -> None:
    """Model, tokenizer and rows as files, and how many tokens each side is to train on."""
    import gzip

    import torch
    from packing import LONGEST, VOCABULARY, llama
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

    from inlay.data.generation import load_generation
    from inlay.data.settings import DataSettings
    from inlay.data.tokens import tokenize_generation

    with gzip.open(data / "train.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [completion_row(json.loads(line)) for line in file]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["</s>"], show_progress=False)
    bpe.train_from_iterator((text for row in rows for text in row.values()), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="</s>", pad_token="</s>", model_max_length=LONGEST
    )
    tokenizer.save_pretrained(folder / "model")
    torch.manual_seed(0)
    LlamaForCausalLM(llama()).to(getattr(torch, dtype)).save_pretrained(folder / "model")

    (folder / "data").mkdir()
    for split, part in {"train": rows[:count], "valid": rows[count : count + EVALUATED]}.items():
        (folder / f"data/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    examples = load_generation(DataSettings(path=str(folder / "data"))).splits["train"]
    tokens = tokenize_generation(AutoTokenizer.from_pretrained(folder / "model"), examples, LONGEST)
    assert not tokens.cut, "TRL's padding_free takes no limit, so no row may need one"
    counted = {"rows": len(tokens.rows), "tokens": sum(tokens.lengths), "learned": tokens.trained, "longest": LONGEST}
    (folder / "tokens.json").write_text(json.dumps(counted | {"dtype": dtype}))


def completion_row(row: dict[str, str]) -> dict[str, str]:
    """The prompt ends with the only white space between the two, so that no token can reach across."""
    asked = "\n".join(part.strip() for part in (row["instruction"], row["input"]) if part.strip())
    return {"prompt": asked + "\n", "completion": row["output"].strip()}


def measure(side: str, folder: Path, out: Path, threads: int | None) -> None:
    import torch

    if threads:
        torch.set_num_threads(threads)
    found = SIDES[side](folder, out)

    from inlay.training.memory import peak_memory_bytes  # not before: the others' processes are to hold no Inlay

    found["memory"] = peak_memory_bytes(torch.device("cpu")) / 2**20
    (out / "found.json").write_text(json.dumps(found))


class Clock:
    """Seconds since it was made, on the wall and of the processor, at moments that have names."""

    def __init__(self):
        self.at: dict[str, tuple[float, float]] = {}
        self.mark("start")

    def mark(self, name: str) -> None:
        self.at[name] = time.perf_counter(), time.process_time()

    def found(self) -> Found:
        """Of the moments start, first step, last step and end."""
        spans = {"training": ("first step", "last step"), "whole": ("start", "end")}
        wall = {key: self.at[end][0] - self.at[start][0] for key, (start, end) in spans.items()}
        busy = {f"{key}, processor": self.at[end][1] - self.at[start][1] for key, (start, end) in spans.items()}
        return wall | busy


def by_inlay(folder: Path, out: Path) -> Found:
    from inlay.data.settings import DataSettings
    from inlay.methods import METHODS
    from inlay.training.run import train
    from inlay.training.settings import RunSettings

    settings = RunSettings(
        model=str(folder / "model"),
        data=DataSettings(path=str(folder / "data")),
        method=METHODS["lora"](rank=RANK, alpha=ALPHA),
        out=str(out),
        epochs=1,
        learning_rate=LEARNING_RATE,
        batch_size=BATCH,
        max_length=read(folder / "tokens.json")["longest"],
        dtype=read(folder / "tokens.json")["dtype"],
        device="cpu",
        evaluations_per_epoch=1,
        samples=0,
    )
    losses = []
    clock = Clock()

    def watch(event: dict[str, Any]) -> None:
        if event["event"] == "plan":
            clock.mark("first step")
        if event["event"] == "step":
            clock.mark("last step")
            losses.append(event["loss"])

    train(settings, watch)
    clock.mark("end")
    return clock.found() | {"loss": sum(losses) / len(losses)}


def by_peft(folder: Path, out: Path, joined: bool) -> Found:
    import torch
    from peft import get_peft_model
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        DataCollatorWithFlattening,
        Trainer,
        TrainingArguments,
    )

    clock = Clock()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    rows = [json.loads(line) for line in (folder / "data/train.jsonl").read_text().splitlines()]
    prompts = tokenizer([row["prompt"] for row in rows])["input_ids"]
    answers = [[*ids, tokenizer.eos_token_id] for ids in tokenizer([row["completion"] for row in rows])["input_ids"]]
    longest = read(folder / "tokens.json")["longest"]
    texts = [
        {"input_ids": [*prompt, *answer][:longest], "labels": [*(-100 for _ in prompt), *answer][:longest]}
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype="auto", attn_implementation="sdpa")
    model.config.use_cache = False  # with a cache, transformers lets joined rows see each other
    trainer = Trainer(
        get_peft_model(model, lora(), autocast_adapter_dtype=False),
        TrainingArguments(**trainer_settings(out, joined)),
        data_collator=DataCollatorWithFlattening() if joined else DataCollatorForSeq2Seq(tokenizer),
        train_dataset=texts,
        processing_class=tokenizer,
    )
    return trained(trainer, clock, folder, out, texts)


def by_trl(folder: Path, out: Path, joined: bool) -> Found:
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    clock = Clock()
    rows = load_dataset("json", data_files=str(folder / "data/train.jsonl"), split="train", cache_dir=str(out))
    longest = None if joined else read(folder / "tokens.json")["longest"]
    settings = trainer_settings(out, joined) | {
        "bf16": read(folder / "tokens.json")["dtype"] == "bfloat16",
        "gradient_checkpointing": False,
    }
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(folder / "model", dtype="auto", attn_implementation="sdpa"),
        SFTConfig(max_length=longest, padding_free=joined, **settings),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        peft_config=lora(),
    )
    return trained(trainer, clock, folder, out, trainer.train_dataset)


def lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")


def trainer_settings(out: Path, joined: bool) -> dict[str, Any]:
    return {
        "output_dir": str(out),
        "num_train_epochs": 1,
        "per_device_train_batch_size": BATCH,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "cosine",
        "train_sampling_strategy": "random" if joined else "group_by_length",
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }


def trained(trainer: Any, clock: Clock, folder: Path, out: Path, texts: Any) -> Found:
    clock.mark("first step")
    result = trainer.train()
    clock.mark("last step")
    trainer.save_model(str(out / "adapter"))
    clock.mark("end")
    expected = read(folder / "tokens.json")
    assert sum(len(text["input_ids"]) for text in texts) == expected["tokens"]
    assert sum(label != -100 for text in texts for label in text["labels"]) == expected["learned"]
    return clock.found() | {"loss": result.training_loss}


SIDES: dict[str, Callable[[Path, Path], Found]] = {
    "inlay": by_inlay,
    "peft": partial(by_peft, joined=False),
    "peft-joined": partial(by_peft, joined=True),
    "trl": partial(by_trl, joined=False),
    "trl-joined": partial(by_trl, joined=True),
}

if __name__ == "__main__":
    main()
