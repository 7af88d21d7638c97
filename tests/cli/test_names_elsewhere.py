"""Slips, and the habits of other tools: the right suggestion, and rather none than a wrong one."""

from collections.abc import Sequence

import pytest

import inlay
from inlay.api.asked import SHORT_FOR
from inlay.cli import VERBS, elsewhere, main
from inlay.cli.flags import flags_of
from inlay.cli.parse import faults, parse
from inlay.cli.train import FIRST, Train, parse_settings
from inlay.errors import SettingsError, did_you_mean

# What is given to `inlay train MODEL DATA`, and what is to be suggested; "" for nothing.
FLAGS = """
    --rank                          --method.rank
    --r                             --method.rank
    -r                              --method.rank
    --text                          --data.text
    --label                         --data.label
    --lr                            --learning-rate
    --method.lr                     --learning-rate
    --learning_rat                  --learning-rate
    --learnig-rate                  --learning-rate
    --bs                            --batch-size
    --batch                         --batch-size
    --batchsize                     --batch-size
    --metod                         --method
    --confg                         --config
    --alpha                         --method.alpha
    --method.alhpa                  --method.alpha
    --method.rnak                   --method.rank
    --no-forgeting                  --no-forgetting
    --no-gaurd                      --no-guard
    --epoch                         --epochs
    --ephocs
    --sead                          --seed
    --patiance                      --patience
    --device-map                    --device, --shard or --stream
    --deepspeed                     --shard
    --fsdp                          --shard
    --tp                            --shard
    --nproc-per-node                --processes
    --warmup_ratio                  --warmup
    --per_device_train_batch_size   --batch-size or --micro-batch-size
    --gradient_accumulation_steps   --micro-batch-size
    --num_train_epochs              --epochs
    --max_grad_norm                 --clip
    --output_dir                    --out
    --lora_r                        --method.rank
    --lora_rank                     --method.rank
    --lora_alpha                    --method.alpha
    --lora_dropout                  --method.dropout
    --target_modules                --method.targets
    --lora_target                   --method.targets
    --load_in_4bit                  --quantize nf4
    --quantization_bit              --quantize
    --max_seq_length                --max-length
    --cutoff_len                    --max-length
    --sequence_len                  --max-length
    --model_name_or_path            MODEL, without a flag
    --base_model                    MODEL, without a flag
    --dataset                       DATA, without a flag
    --train_file                    DATA, without a flag
    --finetuning_type               --method
    --adapter                       --method
    --use_dora                      --method dora
    --use_rslora                    --method.rank-stabilized
    --loraplus_lr_ratio             --method.learning-rate-ratio
    --bf16                          --dtype bfloat16
    --fp16                          --dtype float16
    --attn-implementation           --attention
    --gradient_checkpointing        --recompute all
    --gradient_checkpointing_enable --recompute all
    --enable_activation_checkpointing --recompute all
    --max_memory                    --memory
    --auto_find_batch_size          --memory
    --low_cpu_mem_usage             --stream
    --use_flash_attention_2         --attention flash_attention_2
    --eval_steps                    --evaluations-per-epoch
    --early_stopping_patience       --patience
    --resume_from_checkpoint        --go-on
    --random_state                  --seed
    --val_set_size                  --data.valid-fraction
    --max_samples                   --data.train-rows
    --dataset_text_field            --data.text
    --on_bad_lines                  --data.skip-faulty
    --weight-deacy                  --weight-decay
    --micro_batchsize               --micro-batch-size
    --retain_wieght                 --retain-weight
    --checkpoint-minute             --checkpoint-minutes
    --fail_below_base_line          --fail-below-baseline
    --evaluation-per-epoch          --evaluations-per-epoch
    --data.lable                    --data.label
    --data.train_row                --data.train-rows
    --init_lora_weights             --method.initialization
    --leanring_rate                 --learning-rate
    --epcohs                        --epochs
    --micro_batch                   --micro-batch-size
    --clip-grad-norm                --clip
    --initialisation                --method.initialization
    --dropuot                       --method.dropout
    --lora_alfa                     --method.alpha
    --text_col                      --data.text
    --methods                       --method
    --delimiter                     --data.separator
    --sep                           --data.separator
    --forgetting_budget             --forget-at-most
    --data.pair                     --data.text-pair
    --pair                          --data.text-pair
    --rate                          --learning-rate
    --decay                         --weight-decay
    --weight                        --weight-decay or --retain-weight
    --micro                         --micro-batch-size
    --skip                          --data.skip-faulty
    --test
    --validation
    --subset
    --n_samples
    --max_steps
    --load_in_8bit
    --lr_scheduler_type
    --report_to
    --eval_file
    --logging_steps
    --num_virtual_tokens
    --temperature
    --foo
    --x
"""
METHODS = """
    lroa                lora
    Lora                lora
    lorra               lora
    prefx               prefix
    promt               prompt
    prompt-tuning       prompt
    prompt_tuning       prompt
    soft-prompt         prompt
    prefix-tuning       prefix
    prefix_tunning      prefix
    ptuning             p-tuning
    p-tuning-v2         prefix
    adapter             houlsby, pfeiffer or parallel
    bottleneck          houlsby, pfeiffer or parallel
    lora+               lora with learning_rate_ratio
    rslora              lora with rank_stabilized
    pissa               lora with initialization pissa
    loftq               lora with initialization loftq
    qdora               dora with quantize nf4
    q-lora              qlora
    ada-lora            adalora
    adalroa             adalora
    (IA)3               ia3
    ia^3                ia3
    layernorm           norm
    freeze              last-layers
    last_layer          last-layers
    full-finetuning     full
    fulll               full
    bit-fit             bitfit
    houlsbey            houlsby
    pfeifer             pfeiffer
    multitask_prompt    multitask-prompt
    dynamic_rank        dynamic-rank
    last-layer          last-layers
    soft_prompts        prompt
    biffit              bitfit
    reft
    linear-probing
    boft
    dylora
    delora
    hra
    lora-fa
    llama-adapter
    qalora
    compacter
    galore
    xyz
"""
NAMES = """
    trian       train
    finetune    train
    sft         train
    evaluate    eval
    infer       predict
    chat        predict
    benchmark   compare
    export      merge
    env         doctor
    estimate-memory plan
    method      methods
    rsume       resume
    serve
    webui
"""


def cases(table: str) -> list[tuple[str, str]]:
    lines = (line.split(maxsplit=1) for line in table.strip().splitlines())
    return [(line[0], line[1] if len(line) > 1 else "") for line in lines]


def suggestion(message: str) -> str:
    found = message.partition("; did you mean ")[2]
    return found.removesuffix("?")


def wrong(table: str, suggested: Sequence[str]) -> list[str]:
    of_cases = zip(cases(table), suggested, strict=True)
    return [f"{asked}: {found or 'nothing'}" for (asked, right), found in of_cases if found != right]


def test_settings_are_found_by_their_ends_by_other_names_and_but_for_slips() -> None:
    flags = [*FIRST, *flags_of(Train[inlay.LoRA])]  # as `parse_settings` has them, which would take tenths of a second
    said = [next(faults(["model", "data", flag, "1"], flags, "train")) for flag, _ in cases(FLAGS)]
    assert {message.partition(" --")[0].partition(" -r")[0] for message in said} == {"unknown setting"}
    assert wrong(FLAGS, [suggestion(each) for each in said]) == []


@pytest.mark.parametrize(
    ("verb", "asked", "right"),
    [
        ("eval", ["run", "--data", "new.csv"], "DATA, without a flag"),
        ("eval", ["run", "--file", "new.csv"], "DATA, without a flag"),
        ("predict", ["run", "--file", "new.csv"], "INPUT, without a flag"),
        ("predict", ["--run", "run", "a text"], "RUN_OR_ADAPTER, without a flag"),
        ("merge", ["run", "--out", "merged"], "OUT, without a flag"),
        ("plan", ["model", "--data", "new.csv"], "DATA, without a flag"),
    ],
)
def test_what_stands_by_itself_is_found_by_the_name_that_the_help_has(
    verb: str, asked: list[str], right: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, *asked]) == SettingsError.exit_code
    said = capsys.readouterr().err.splitlines()[0]
    assert suggestion(said) == right


def test_what_a_method_has_is_suggested_for_it_alone() -> None:
    for method, flag, right in (
        ("adalora", "--rank", "--method.target-rank"),
        ("bitfit", "--lora_r", ""),
        ("prompt", "--text", "--data.text or --method.text"),
        ("pfeiffer", "--reduction", "--method.reduction-factor"),
    ):
        with pytest.raises(SettingsError, match="unknown setting") as problem:
            parse_settings(["model", "data", "--method", method, flag, "1"])
        assert suggestion(str(problem.value)) == right


def test_methods_are_found_by_other_names_and_but_for_slips() -> None:
    suggested = []
    for name, _ in cases(METHODS):
        with pytest.raises(SettingsError, match="unknown method") as problem:
            inlay.METHODS.find(name, also=SHORT_FOR)
        suggested.append(suggestion(str(problem.value)))
    assert wrong(METHODS, suggested) == []


def test_verbs_are_found_by_other_names_and_but_for_slips() -> None:
    said = [did_you_mean(name, VERBS, elsewhere.VERBS) for name, _ in cases(NAMES)]
    assert wrong(NAMES, [suggestion(each) for each in said]) == []


@pytest.mark.parametrize(
    ("table", "known"),
    [(elsewhere.METHODS, {*inlay.METHODS, *SHORT_FOR}), (elsewhere.VERBS, set(VERBS))],
    ids=["methods", "verbs"],
)
def test_other_names_stand_for_something_that_is_there(table: dict[str, str], known: set[str]) -> None:
    assert [
        each for words in table.values() for each in words.split(" | ") if each and each.split()[0] not in known
    ] == []
    assert [word for word in table if word in known] == []


def test_the_flags_of_the_help_are_those_that_are_read() -> None:
    flags = {flag.shown for flag in flags_of(Train[inlay.LoRA]) if flag.is_switch}
    assert "--shard" in flags
    settings = parse(Train[inlay.LoRA], ["model", "data", *flags - {"--shard"}], "train")  # which --stream excludes
    assert settings.method.rank_stabilized
    assert settings.json
    assert not settings.guard
    assert not settings.forgetting
