"""What other tools, papers and habit call our settings, methods and verbs, for `names.meant`.

The tools are transformers and TRL, PEFT, LLaMA-Factory, Unsloth, axolotl, litgpt and torchtune. A word that stands for
nothing has no counterpart here; it is listed where a name of ours looks like it.
"""

from collections.abc import Mapping


def _spread(table: Mapping[str, str]) -> dict[str, str]:
    """Turn round a table of what we say, and the words for it."""
    return {word: ours for ours, words in table.items() for word in words.split()}


SETTINGS = _spread({
    "model": "base base_model model_name model_name_or_path model_path model_id pretrained_model_name_or_path m",
    "data.path | data | input": "file filename file_name csv",
    "data.path | data": "dataset datasets dataset_name dataset_path dataset_id data_path data_file data_files "
    "data_dir "
    "train_file train_data train_dataset training_file training_data train_path input_file d",
    "adapter | run | subject": "adapter_path adapter_name_or_path adapter_model peft_model lora_model lora_path "
    "model_dir run_dir checkpoint checkpoint_dir checkpoint_path adapter_file",
    "method": "adapter peft_type peft_method finetuning_type finetune_type tuner tuner_type peft use_peft algorithm "
    "technique",
    "method lora": "lora use_lora",
    "method dora": "dora use_dora",
    "method full": "full full_finetuning full_finetune",
    "config": "cfg config_file config_path yaml settings c",
    "out": "o output output_dir output_path output_folder outdir out_dir save_dir save_path save_to result_dir",
    "epochs": "epoch num_epochs num_train_epochs n_epochs nepochs max_epochs train_epochs e ep",
    "batch_size": "b bs bsz batch batchsize train_batch_size global_batch_size effective_batch_size",
    "batch_size | micro_batch_size": "per_device_train_batch_size per_device_batch_size",
    "micro_batch_size": "gradient_accumulation_steps gradient_accumulation grad_accum grad_accum_steps "
    "accumulation accumulation_steps "
    "accumulate_grad_batches mbs microbatch minibatch_size",
    "max_length | max_tokens": "max_len max_seq_length max_seq_len max_sequence_length seq_len seq_length "
    "sequence_length sequence_len cutoff_len model_max_length context_length ctx_len maxlen",
    "max_tokens": "max_new_tokens max_output_tokens max_completion_tokens n_predict",
    "learning_rate": "lr lrate learnrate peak_lr max_lr base_lr initial_lr",
    "warmup": "warmup_ratio warmup_steps lr_warmup_steps num_warmup_steps warmup_fraction warmup_proportion",
    "weight_decay": "wd decay l2",
    "clip": "max_grad_norm grad_clip clip_grad clip_grad_norm clip_norm gradient_clipping gradient_clip_val max_norm",
    "evaluations_per_epoch": "evals_per_epoch eval_steps eval_strategy evaluation_strategy eval_interval "
    "evaluation_steps eval_every eval_freq val_check_interval",
    "forget_at_most": "forgetting_budget forget_budget max_forgetting",
    "patience": "early_stopping early_stopping_patience early_stop",
    "checkpoint_minutes": "save_steps save_interval save_strategy save_every saves_per_epoch checkpoint_every",
    "go_on": "resume resume_from_checkpoint auto_resume auto_resume_from_checkpoints continue continue_training",
    "seed": "random_seed random_state rng_seed",
    "dtype": "torch_dtype precision mixed_precision compute_dtype",
    "dtype bfloat16": "bf16 bfloat16 use_bf16",
    "dtype float32": "fp32 float32 full_precision",
    "dtype float16": "fp16 float16 use_fp16 half",
    "quantize nf4": "load_in_4bit load_in_4_bit load_4bit in_4bit 4bit 4_bit int4 nf4 qlora use_qlora use_4bit "
    "bnb_4bit_quant_type",
    "quantize": "quantization quantization_bit quantization_method quant bits",
    "device": "accelerator",
    "device | shard | stream": "device_map",
    "shard": "fsdp use_fsdp fsdp2 fully_shard fsdp_config fsdp_size hsdp sharding deepspeed deepspeed_config zero "
    "zero2 zero3 zero_stage tp tp_plan tp_size tensor_parallel tensor_parallel_size model_parallel distributed_config",
    "processes": "nproc nproc_per_node num_processes n_processes world_size gpus num_gpus n_gpus ngpus devices ddp "
    "data_parallel dp multi_gpu",
    "tf32": "allow_tf32",
    "recompute all": "gradient_checkpointing gradient_checkpointing_enable use_gradient_checkpointing checkpointing "
    "activation_checkpointing enable_activation_checkpointing recomputation remat",
    "memory": "max_memory memory_limit max_gpu_memory gpu_memory gpu_memory_limit vram auto_find_batch_size",
    "stream": "offload cpu_offload disk_offload offload_folder offload_state_dict low_cpu_mem_usage",
    "attention": "attn_implementation attn attention_implementation attn_impl",
    "attention flash_attention_2": "use_flash_attention_2 flash_attention flash_attn use_flash_attn",
    "device cuda": "gpu cuda use_gpu use_cuda",
    "device cpu": "cpu use_cpu no_cuda no_gpu",
    "targets": "target target_modules target_layers lora_target lora_targets lora_target_modules modules "
    "lora_modules",
    "rank | target_rank": "r lora_r lora_rank rank peft_r adapter_rank network_dim",
    "initial_rank": "init_r",
    "alpha": "lora_alpha network_alpha",
    "dropout": "lora_dropout dropout_rate dropout_prob drop adapter_dropout",
    "rank_stabilized": "use_rslora rslora rs_lora",
    "learning_rate_ratio": "loraplus loraplus_lr_ratio lora+ lora_plus lr_ratio",
    "initialization": "init init_lora_weights weight_init init_weights",
    "initialization pissa": "pissa pissa_init use_pissa",
    "initialization olora": "olora",
    "initialization eva": "eva",
    "initialization loftq": "loftq use_loftq loftq_config",
    "reduction_factor": "reduction",
    "size": "bottleneck_size bottleneck bottleneck_dim adapter_size adapter_dim",
    "layers": "num_layers_trainable freeze_trainable_layers num_layers",
    "block_size": "oft_block_size",
    "data.text": "text_column text_col text_field dataset_text_field input_column content_column",
    "data.label": "label_column label_col label_field labels target_column class_column y",
    "data.prompt": "prompt_column prompt_field instruction_column question_column",
    "data.completion": "completion_column response_column answer_column output_column completion_field response",
    "data.text_pair | pair": "text2 text_b sentence2 second_text text_pair_column",
    "data.valid_fraction": "val_size val_set_size valid_size val_split validation_split test_size eval_fraction "
    "val_fraction validation_fraction validation_split_percentage valid_split dev_size",
    "data.train_rows": "max_samples max_train_samples train_samples train_size limit max_rows",
    "data.eval_rows": "max_eval_samples eval_samples max_valid_samples max_val_samples",
    "data.format": "dataset_type dataset_format data_format row_format",
    "data.skip_faulty": "on_bad_lines skip_errors ignore_errors skip_invalid skip_bad_rows max_bad_records max_errors "
    "drop_invalid",
    "data.separator": "sep delimiter delim csv_separator",
    "data.quoting": "quotechar quotes quote_char csv_quoting",
    "samples": "num_generations num_generate_samples",
    "temperature": "temp",
    "methods": "methods_to_compare",
    "seeds": "num_seeds n_seeds",
    "jobs": "num_jobs n_jobs workers num_workers j",
    "search": "lr_search hparam_search n_trials trials",
    "with": "other compare_with",
    "json": "jsonl as_json json_output output_json",
    "": "max_steps steps train_steps max_iters load_in_8bit 8bit "
    "lr_scheduler_type lr_scheduler scheduler optim optimizer packing logging_steps report_to valid_file "
    "validation_file valid valid_data validation val dev test test_data test_set eval_file test_file "
    "eval_dataset val_data val_file subset n_samples num_samples modules_to_save fan_in_fan_out lora_bias "
    "eval_batch_size per_device_eval_batch_size num_virtual_tokens top_p top_k num_beams template chat_template "
    "neftune_noise_alpha label_smoothing save_total_limit group_by_length",
})  # fmt: skip

METHODS = _spread({
    "full": "full-finetuning full-fine-tuning full-finetune finetune finetuning fine-tuning fft ft full-ft "
    "full-sft full-tuning",
    "bitfit": "bias biases bias-only bias-tuning",
    "norm": "layernorm layer-norm ln ln-tuning ln_tuning norms norm-tuning rmsnorm layernorm-tuning",
    "last-layers": "freeze last-layer last last-k top-layers lastlayers freezing",
    "pattern": "patterns selective regex",
    "sparse": "sparse-finetuning sift fish-mask",
    "houlsby | pfeiffer | parallel": "adapter adapters bottleneck bottleneck-adapter bottleneck-adapters",
    "houlsby": "double_seq_bn houlsby-adapter adapter-h",
    "pfeiffer": "seq_bn pfeiffer-adapter adapter-p adapterp",
    "parallel": "par_bn parallel-adapter",
    "ia3": "ia^3 (ia)3 (ia)^3 ia-3 ia³",
    "lora with learning_rate_ratio": "lora+ loraplus lora-plus",
    "lora with rank_stabilized": "rslora rs-lora",
    "lora with initialization pissa": "pissa",
    "lora with initialization olora": "olora",
    "lora with initialization eva": "eva",
    "lora with initialization loftq": "loftq",
    "lora": "low-rank lowrank low-rank-adaptation peft-lora peft",
    "qlora": "lora-4bit 4bit nf4",
    "dora with quantize nf4": "qdora",
    "adalora": "ada-lora adaptive-lora",
    "dynamic-rank": "dynamic-dora dora-dynamic dynamicrank",
    "prompt": "prompt-tuning prompttuning prompt_tuning soft-prompt soft-prompts softprompt softprompts prompts pt",
    "p-tuning": "ptuning p_tuning p-tuning-v1 ptuning-v1",
    "prefix": "prefix-tuning prefixtuning prefix_tuning p-tuning-v2 ptuning-v2 ptuningv2 p-tuning2",
    "multitask-prompt": "mpt multitask-prompt-tuning multitask multi-task-prompt",
    "": "boft hra delora dylora vblora vb-lora lora-fa lorafa xlora x-lora longlora randlora gralora moslora melora "
    "loraxs lora-xs delta-lora qa-lora qalora poly road fourierft waveft c3a miss bone cpt hira compacter mora "
    "llama-adapter adaption-prompt adaptionprompt trainable-tokens hydralora galore lora-ga loraga reft loreft "
    "head linear-probe linear-probing shira",
})  # fmt: skip

VERBS = _spread({
    "train": "finetune fine-tune tune fit sft run finetune_lora finetune_full lora",
    "eval": "evaluate evaluation test score validate lm-eval lm_eval",
    "predict": "infer inference generate chat ask classify interact prompt complete answer",
    "compare": "benchmark bench sweep comparison",
    "merge": "export merge_lora merge-lora merge_and_unload fuse fold convert",
    "methods": "method list ls show explain algorithms",
    "data": "dataset datasets inspect preprocess describe",
    "resume": "continue restart go-on",
    "doctor": "env info check diagnose system status environment",
    "plan": "estimate estimate-memory estimate_memory memory memory-usage vram cost costs",
    "demo": "example quickstart tutorial start try",
    "rank": "ranks spectrum svd svals",
    "": "serve combine api webui download",
})  # fmt: skip

VALUES = _spread({
    "bfloat16": "bf16",
    "float32": "fp32 float single",
    "cuda": "gpu",
    "float16": "fp16 half",
    "flash_attention_2": "flash flash-attn flash_attn fa2 flash_attention",
    "nf4": "4bit 4-bit int4 4",
    "valid": "validation val dev",
    "": "float8 8bit int8",
})  # fmt: skip
