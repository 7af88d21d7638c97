"""Bugs that were made or could have been, each planted in a copy of the project to see that a test catches it.

python scripts/planted_bugs.py                          all of them; first the tests themselves, without a bug
python scripts/planted_bugs.py --only scale pfeiffer    those with such a word in their name
python scripts/planted_bugs.py --kinds 3 7              those of these kinds

A kind is a numbered row of KINDS. Exit code 1 if a bug is not caught, or if its line has changed and it cannot be
planted: then it needs its new text here.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

KINDS = {
    0: "the mechanism and the methods",
    1: "hybrid models: blocks that do not attend",
    2: "experts and routers",
    3: "soft prompts",
    4: "weights that are read past their module",
    5: "heads",
    6: "buffers",
    7: "two adapters at once",
    8: "which adapters are active",
    9: "offloaded and streamed bases",
    10: "other people's training loops",
    11: "a merged model",
    12: "vision-language models with text rows",
    13: "added tokens",
    14: "PEFT's files that can be read",
    15: "files for other readers",
    16: "settings by structure",
    17: "several processes",
}


@dataclass(frozen=True)
class Bug:
    name: str
    kind: int
    file: str
    """Below src/inlay."""
    old: str
    """The exact text, which is there once."""
    new: str
    test: str
    """Below tests, as pytest takes it: file::function, or with -k after a space."""


BUGS = (
    Bug(
        "using() forgets to restore rows",
        0,
        "core/routing.py",
        "        try:\n            yield\n        finally:\n            self.override(before, thread)\n",
        "        yield\n",
        "core/test_using.py",
    ),
    Bug(
        "a host that raised stays shadowed",
        0,
        "core/slot.py",
        "                self[name].release(host)\n",
        "                pass\n",
        "core/test_using.py::test_a_host_that_raises_gets_its_own_parameters_back",
    ),
    Bug(
        "merge writes a Conv1D's weight untransposed",
        0,
        "models/weights.py",
        'return {name: p.T if is_flipped(host) and name == "weight" else p for name, p in params.items()}',
        "return {name: p.reshape(host._parameters[name].shape) for name, p in params.items()}",
        "test_every_method.py::test_keeps_the_contract -k gpt2-lora-merge_equals",
    ),
    Bug(
        "detach leaves the base frozen",
        0,
        "models/frozen.py",
        "            p.requires_grad_(self.required_grad[name])\n",
        "            pass\n",
        "test_every_method.py::test_keeps_the_contract -k lora-detach_restores",
    ),
    Bug(
        "compiled graphs are kept at attach",
        0,
        "core/state.py",
        "    state.watch = Watch(model, state.watched)\n    _forget_compiled_graphs()\n",
        "    state.watch = Watch(model, state.watched)\n",
        "test_every_method.py::test_attach_and_detach_after_compile_take_effect_in_one_graph -k llama-lora",
    ),
    Bug(
        "LoRA's scale is alpha",
        0,
        "methods/reparameterized/lora.py",
        "return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)",
        "return alpha",
        "methods/test_lora.py::test_the_scale_is_alpha_over_rank_or_over_its_root",
    ),
    Bug(
        "Pfeiffer joins after the norm",
        0,
        "methods/additive/pfeiffer.py",
        "return host.forward(args[0] + self.change(first(result)))",
        "return first(result) + self.change(first(result))",
        "methods/test_bottleneck.py::test_a_constant_joins_the_sum_before_the_final_norm_or_after_the_block",
    ),
    Bug(
        "full keeps parameters in bfloat16",
        0,
        "methods/full.py",
        "            p.data = p.data.float()\n",
        "            pass\n",
        "methods/test_full.py::test_gradients_are_float32_and_small_steps_are_kept",
    ),
    Bug(
        "a soft prompt does not shift positions",
        0,
        "methods/prompts/placement.py",
        "return self.join(first + steps_P, rows + self.count, dim)",
        "return self.join(first + steps_P, rows, dim)",
        "methods/test_prompt.py::test_a_left_padded_row_equals_the_unpadded_one",
    ),
    Bug(
        "BitFit leaves out the biases of norms",
        0,
        "methods/selective/bias.py",
        'if (module._parameters.get("bias") is not None or missing)',
        'if ((weights.is_linear(module) and module._parameters.get("bias") is not None) or missing)',
        "methods/test_bias.py::test_the_count_in_bert_is_the_formula",
    ),
    Bug(
        "blocks are only those that attend",
        1,
        "models/blocks.py",
        "        elif _is_block(element):\n",
        "        elif _attends(element):\n",
        "test_every_architecture.py::test_all_its_blocks_are_found -k lfm2",
    ),
    Bug(
        "experts whose module says its width count as laid out the other way",
        2,
        "models/experts.py",
        "return rows == width != columns",
        "return columns == width != rows",
        "core/test_experts.py::test_the_width_of_the_input_tells_the_layout_or_the_module_says_it",
    ),
    Bug(
        "a router is a host like any linear layer",
        2,
        "models/sites.py",
        "yield from (name for name in found if name not in self.routers)",
        "yield from found",
        "test_every_architecture.py::test_a_method_is_right_or_refused -k phimoe-lora",
    ),
    Bug(
        "a soft prompt stands before the padding",
        3,
        "methods/prompts/placement.py",
        "lead_B = (mask_BS.cumsum(1) == 0).sum(1)",
        "lead_B = mask_BS.new_zeros(len(mask_BS))",
        "methods/test_prompt.py::test_the_prompt_stands_between_padding_and_text_as_in_the_call_by_hand",
    ),
    Bug(
        "an inert host is not told",
        4,
        "models/watch.py",
        "name not in self.called and base & used and own - reached",
        "name not in self.called and not base and own - reached",
        "core/test_inert.py::test_the_first_pass_finds_one_and_only_that",
    ),
    Bug(
        "a classifier that is its own base has no head",
        5,
        "models/heads.py",
        "if type(model).__name__ not in _task_classes():",
        "if True:",
        "core/test_parts_of_models.py::test_the_head_is_found_trained_saved_and_loaded",
    ),
    Bug(
        "a forward pass in training writes into the base's buffers",
        6,
        "models/buffers.py",
        "            host._buffers.update(self.own)\n",
        "",
        "core/test_buffers.py::test_whatever_moves_a_buffer_leaves_the_bases_as_it_is",
    ),
    Bug(
        "outputs are edited from the outermost adapter on",
        7,
        "core/slot.py",
        "edits = [delta for delta in reversed(running) if not delta.stands_in(host)]",
        "edits = [delta for delta in running if not delta.stands_in(host)]",
        "test_pairs.py::test_together_in_either_order -k llama-lora-dora",
    ),
    Bug(
        "two adapters that replace one tensor run together",
        7,
        "core/active.py",
        "    elif len(names) > 1:\n        _check_replaced(state, names)\n",
        "",
        "core/test_together.py::test_two_that_replace_one_tensor_are_refused_by_its_name",
    ),
    Bug(
        "a thread runs what another one has chosen",
        8,
        "core/routing.py",
        "return self.overrides[here]",
        "return next(iter(self.overrides.values()))",
        "core/test_active.py::test_each_thread_has_its_own_choice",
    ),
    Bug(
        "detaching the active adapter leaves none active",
        8,
        "core/state.py",
        "return left if left or adapter.name not in names else adapter.before",
        "return left",
        "core/test_active.py::test_what_was_active_before_one_was_attached_is_active_after_it",
    ),
    Bug(
        "offloaded weights are read where they are not",
        9,
        "models/weights.py",
        "if not tensor.is_meta or (hook := _offloading(host)) is None:",
        "if (hook := _offloading(host)) is None or tensor.is_meta:",
        "core/test_offloaded.py::test_starts_that_read_the_weight_read_the_offloaded_one",
    ),
    Bug(
        "a layer keeps its weight where the second run of its block breaks off",
        9,
        "bases/streaming.py",
        ", to_the_end=True",
        "",
        "training/test_streaming.py::test_gradients_are_those_of_a_base_in_memory -k 'prompt and llama'",
    ),
    Bug(
        "a block that is computed again adds its positions to a prefix once more",
        9,
        "models/recompute.py",
        "                cache.put_back()\n",
        "                pass\n",
        "training/test_streaming.py::test_gradients_are_those_of_a_base_in_memory -k 'prefix and llama'",
    ),
    Bug(
        "what the files have under a layer's name is streamed, whatever it is",
        9,
        "bases/streaming.py",
        "torch.equal(found.to(p.dtype), p)",
        "True",
        "training/test_streaming.py::test_weights_that_the_files_have_otherwise_are_refused",
    ),
    Bug(
        "what was moved while it was read is drawn at random again",
        9,
        "bases/arrival.py",
        "        setattr(parameter, _FROM_FILE, True)\n",
        "",
        "training/test_loading.py::test_each_parameter_arrives_by_its_name_once_and_those_that_are_new_do_not",
    ),
    Bug(
        "casting the model casts the adapter",
        10,
        "core/delta.py",
        "lambda tensor: _not_narrower(tensor, fn(tensor))",
        "lambda tensor: fn(tensor)",
        "core/test_sharded.py::test_casting_the_model_leaves_the_adapter_in_float32",
    ),
    Bug(
        "a model that was merged for good is unmerged as the adapter leaves",
        11,
        "attached/merging.py",
        "        slot._unmerged = None\n    state_of(adapter.model).routing.merged = None\n",
        "        pass\n",
        "core/test_merging.py::test_merged_for_good_a_plain_model_is_left",
    ),
    Bug(
        "text rows adapt the image tower too",
        12,
        "models/sites.py",
        "if id(module) in inside and not self.in_head(name) and self._in_part(name)\n        )",
        "if id(module) in inside and not self.in_head(name)\n        )",
        "test_every_architecture.py::test_all_its_blocks_are_found -k 'gemma3 and texts'",
    ),
    Bug(
        "new rows of a vocabulary are not looked at",
        13,
        "models/fingerprint.py",
        "        if matrices and not any(v.is_meta for v in matrices):\n",
        "        if not matrices:\n",
        "core/test_fingerprint.py::test_an_adapter_of_a_resized_vocabulary_is_not_put_on_other_new_rows",
    ),
    Bug(
        "a setting that is not known and changes something is passed over",
        14,
        "formats/peft_config.py",
        "if key in COMMON_KEYS or key in known or says_nothing(key, value):",
        "if key in COMMON_KEYS or key in known or value:",
        "formats/test_refusals.py::test_a_config_that_means_another_function_is_refused",
    ),
    Bug(
        "ranks by layer are written without their alphas",
        15,
        "methods/reparameterized/lora.py",
        "alphas = {pattern: scale * rank for pattern, rank in others.items()}",
        "alphas = dict[str, float]()",
        "formats/test_peft_dynamic_rank.py::test_every_layer_has_scale_one_so_a_reader_without_patterns_is_right_too",
    ),
    Bug(
        "ia3 scales the queries of a layer that gives them with keys and values",
        16,
        "methods/additive/keys_values.py",
        "heads * own if in_order else 0}",
        "0}",
        "methods/test_ia3.py",
    ),
    Bug(
        "gradients are added in the order of the processes",
        17,
        "training/gradients.py",
        "        for place in places[1:]:",
        "        for place in sorted(places)[1:]:",
        "reliability/test_several_processes.py -k 'train_what and lora'",
    ),
    Bug(
        "dropout draws on from what was drawn before",
        17,
        "training/passes.py",
        "                    draws.begin(row)",
        "                    pass",
        "reliability/test_several_processes.py -k 'train_what and lora'",
    ),
    Bug(
        "what a killed process leaves is not kept",
        17,
        "training/keeper.py",
        "                self._whole = True\n                raise",
        "                raise",
        "reliability/test_several_processes.py -k ends_one",
    ),
    Bug(
        "a process without memory divides its step alone",
        17,
        "training/passes.py",
        "        if why is not None:",
        "        if why is None:",
        "reliability/test_several_processes.py -k without_memory",
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="bugs with one of these words in their name")
    parser.add_argument("--kinds", nargs="*", type=int, choices=list(KINDS), help="bugs of these kinds")
    parser.add_argument("--at-once", action="store_true", help="without running the tests without a bug first")
    asked = parser.parse_args()
    bugs = [
        bug
        for bug in BUGS
        if (not asked.only or any(word in bug.name for word in asked.only))
        and (not asked.kinds or bug.kind in asked.kinds)
    ]
    if not bugs:
        parser.error("no bug of that name or kind")
    with tempfile.TemporaryDirectory() as folder:
        tree = copied_tree(Path(folder))
        if not asked.at_once:
            code, said = run_tests(tree, sorted({bug.test for bug in bugs}))
            if code != 0:
                sys.exit(f"without a bug the tests do not pass:\n{said}")
        results = [(bug, *examine(bug, tree)) for bug in bugs]
    print(f"\n| bug | kind | caught by | |\n|---|---|---|---|\n{table(results)}")
    missed = [bug for bug, verdict, _ in results if verdict != "caught"]
    caught_kinds = {bug.kind for bug in BUGS}
    print(f"\n{len(bugs) - len(missed)} of {len(bugs)} caught")
    if without := [f"{kind} ({what})" for kind, what in KINDS.items() if kind not in caught_kinds]:
        print(f"kinds without a bug: {', '.join(without)}")
    sys.exit(bool(missed))


def copied_tree(folder: Path) -> Path:
    """The project's code and tests in `folder`."""
    for name in ("src", "tests", "scripts", "examples", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def examine(bug: Bug, tree: Path) -> tuple[str, float]:
    """`caught`, or why not, and the seconds that it took."""
    start = time.monotonic()
    file = tree / "src" / "inlay" / bug.file
    sound = file.read_text(encoding="utf-8") if file.is_file() else ""
    if problem := cannot_be_planted(bug, sound):
        verdict = problem
    else:
        file.write_text(sound.replace(bug.old, bug.new), encoding="utf-8")
        try:
            code, said = run_tests(tree, [bug.test])
        finally:
            file.write_text(sound, encoding="utf-8")
        verdict = {0: "NOT CAUGHT", 1: "caught"}.get(code, f"pytest ended with {code}: {said[-300:]}")
    print(f"{verdict:<12} {bug.name}", flush=True)
    return verdict, time.monotonic() - start


def cannot_be_planted(bug: Bug, sound: str) -> str:
    """Why, or nothing."""
    found = sound.count(bug.old)
    return "" if found == 1 else f"its text is in {bug.file} {found} times"


def run_tests(tree: Path, tests: list[str]) -> tuple[int, str]:
    """The largest exit code of pytest over `tests`, and what it said."""
    environment = os.environ | {
        "PYTHONPATH": str(tree / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",  # a file that is changed twice within a second would be taken from there
        "OMP_NUM_THREADS": "1",
    }
    code, said = 0, ""
    for test in tests:
        path, *choice = shlex.split(test)
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "", "-p", "no:cacheprovider", f"tests/{path}"]
        done = subprocess.run(command + choice, cwd=tree, env=environment, capture_output=True, text=True)
        if done.returncode > code:
            code, said = (
                done.returncode,
                f"{test}: exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-500:]}",
            )
    return code, said


def table(results: Iterable[tuple[Bug, str, float]]) -> str:
    return "\n".join(
        f"| {bug.name} | {bug.kind} | {bug.test.split(' ')[0]} | {verdict}, {seconds:.0f} s |"
        for bug, verdict, seconds in results
    )


if __name__ == "__main__":
    main()
