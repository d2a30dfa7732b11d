"""What users of Lightning, Transformers, TRL, PEFT and sentence-transformers call our settings.

A guess leads to a key, or to an override where the value is part of the answer. `*.` stands for
`embedding.` and `llm.`. Guesses are in small letters, and may hold dots: `lora.r`, and `r` alone.
"""

_GUESSES_BY_KEY = {
    # batches, steps and epochs
    "*.training.batch_size": """per_device_train_batch_size per_gpu_train_batch_size bs batchsize
        train_batch_size micro_batch_size micro_batch_size_per_gpu dataloader.batch_size
        datamodule.batch_size""",
    "*.training.batch_size=auto": "auto_find_batch_size auto_scale_batch_size scale_batch_size",
    "evaluation.batch_size": """per_device_eval_batch_size eval_batch_size val_batch_size
        test_batch_size""",
    "*.training.num_epochs": "epochs max_epochs num_train_epochs n_epochs nb_epochs epoch",
    "*.training.max_steps": "total_steps num_steps num_train_steps max_train_steps iterations",
    "*.training.batches.accumulate": """gradient_accumulation_steps accumulate_grad_batches
        grad_accum grad_accum_steps gradient_accumulation grad_accumulation_steps""",
    "*.training.batches.effective_size": """global_batch_size effective_batch_size
        total_batch_size""",
    "*.training.batches.tokens": "tokens_per_batch max_tokens_per_batch max_batch_tokens",
    "*.training.batches.padding_free": """packing group_by_length sample_packing use_packing
        length_grouped_sampler""",
    "*.training.batches.workers": "num_workers dataloader_num_workers dataloader.num_workers",
    # optimizer and learning rate
    "*.training.learning_rate": """lr optimizer.lr optim.lr base_lr peak_lr max_lr init_lr
        learningrate base_learning_rate""",
    "*.training.learning_rate=auto": "auto_lr_find lr_find",
    "*.training.warmup_steps": "warmup num_warmup_steps warmup_iters",
    "*.training.warmup_ratio": "warmup_proportion warmup_fraction",
    "*.training.schedule": """lr_scheduler lr_scheduler_type scheduler scheduler_type lr_schedule
        lr_scheduler_kwargs""",
    "*.training.weight_decay": "wd l2 decay_rate",
    "*.training.max_grad_norm": """gradient_clip_val grad_clip clip_grad_norm gradient_clipping
        clip_norm max_norm grad_norm_clip""",
    "*.training.optimizer.name": "optim optimizer_name optim_type optimizer_type optimizer_cls",
    "*.training.optimizer.beta1": "adam_beta1 betas adam_betas",
    "*.training.optimizer.beta2": "adam_beta2",
    "*.training.optimizer.epsilon": "eps adam_epsilon adam_eps",
    "*.training.optimizer.layer_decay": "llrd layerwise_lr_decay layer_wise_lr_decay lr_decay",
    # validation while it trains, early stopping, checkpoints
    "*.training.early_stopping_patience": "patience early_stopping early_stop",
    "*.training.monitor": "metric_for_best_model monitor_metric best_metric checkpoint_metric",
    "*.training.validations_per_epoch": """val_check_interval eval_steps eval_strategy
        evaluation_strategy check_val_every_n_epoch eval_every eval_interval""",
    "*.training.logging_steps": "log_every_n_steps log_steps log_interval log_freq log_every",
    "*.training.checkpoints.every_steps": """save_steps every_n_train_steps save_strategy
        checkpoint_every save_every checkpoint_interval""",
    "*.training.averaging.kind": "ema swa use_ema use_swa stochastic_weight_avg",
    "*.training.averaging.decay": "ema_decay",
    # numbers, memory, devices
    "*.training.precision": "dtype torch_dtype mixed_precision amp bnb_4bit_compute_dtype",
    "*.training.precision=16-mixed": "fp16 half use_fp16",
    "*.training.precision=bf16-mixed": "bf16 use_bf16 bfloat16",
    "*.training.precision=32-true": "fp32 full_precision float32",
    "*.training.memory.gradient_checkpointing": """use_gradient_checkpointing grad_checkpointing
        activation_checkpointing gradient_checkpoint""",
    "*.training.memory.compile": "torch_compile compile_model use_compile",
    "trainer.devices": """devices gpus num_gpus n_gpu n_gpus num_devices nproc_per_node
        num_processes world_size""",
    "trainer.num_nodes": "nnodes nodes num_machines n_nodes",
    "trainer.accelerator": "device use_cpu no_cuda cuda use_gpu",
    "trainer.strategy": "ddp fsdp deepspeed distributed_backend distributed_strategy",
    "callbacks": "callback",
    # data
    "session_id": """session data dataset datasets dataset_name dataset_path data_path data_dir
        train_file train_data train_dataset data_files""",
    "model_type": "task task_type family model_kind",
    "split.test_share": "test_size test_split test_ratio test_fraction",
    "split.validation_share": """val_size valid_size validation_size validation_split val_split
        val_ratio validation_ratio dev_size eval_split""",
    "cross_validation.n_splits": "folds k_folds n_folds num_folds kfold cv",
    "cleaning.drop_duplicates": "dedup deduplicate deduplication",
    "cleaning.privacy.enabled": "pii anonymize anonymise redact scrub mask_pii",
    "augmentation.methods": "augment augmentations data_augmentation",
    "feature_engineering.hard_negatives.enabled": """mine_hard_negatives hard_negative_mining
        hard_negatives use_hard_negatives""",
    "feature_engineering.hard_negatives.skip_top": "range_min",
    "feature_engineering.hard_negatives.candidates": "range_max",
    # models
    "*.model": """model model_name model_name_or_path base_model base_model_name_or_path
        pretrained_model_name_or_path pretrained_model model_id model_path backbone checkpoint""",
    "*.max_length": """max_seq_length max_seq_len model_max_length max_sequence_length cutoff_len
        block_size context_length seq_len""",
    "embedding.query_prompt": "query_prefix query_instruction prompts prompt_name",
    "embedding.document_prompt": "passage_prefix doc_prefix passage_prompt corpus_prompt",
    "embedding.loss": "loss_fn loss_function criterion loss_name",
    "embedding.loss_options.scale": "logit_scale inverse_temperature",
    "embedding.loss_options.temperature": "tau temp",
    "embedding.loss_options.similarity": "similarity_fct similarity_fn_name similarity_function",
    "embedding.loss_options.distance": "distance_metric",
    "embedding.matryoshka_dimensions": "matryoshka_dims mrl_dims truncate_dim matryoshka",
    "embedding.mini_batch_size": "gradcache gradcache_chunk_size cached_mini_batch_size",
    "embedding.teacher": "teacher_model teacher_model_name_or_path guide guide_model",
    "llm.adapter.kind": """peft use_peft peft_type peft_config lora use_lora finetuning_type
        adapter_type""",
    "llm.adapter.kind=dora": "use_dora dora",
    "llm.adapter.kind=rslora": "use_rslora rslora",
    "llm.adapter.kind=qlora": "load_in_4bit use_4bit qlora quantization_config",
    "llm.adapter.rank": "r lora.r lora_r lora_rank lora.rank",
    "llm.adapter.alpha": "lora.alpha lora_alpha lora.lora_alpha",
    "llm.adapter.dropout": "lora.dropout lora_dropout lora.lora_dropout",
    "llm.adapter.target_modules": "lora_target_modules lora_target lora.target_modules",
    "llm.adapter.initialisation": "init_lora_weights initialization",
    "llm.preference.beta": "dpo_beta dpo.beta",
    "llm.preference.loss_type": "dpo_loss dpo.loss_type",
    "llm.preference.supervised_weight": "rpo_alpha sft_weight pref_ftx",
    "llm.kto.beta": "kto_beta",
    "llm.neftune_alpha": "neftune_noise_alpha neftune noise_alpha",
    # evaluation, tracking and folders
    "evaluation.bootstrap_samples": "n_bootstrap bootstrap n_resamples num_bootstrap",
    "evaluation.confidence": "confidence_level",
    "evaluation.generation.max_new_tokens": "max_completion_length",
    "gate.metric": "primary_metric decision_metric promotion_metric",
    "gate.minimum_improvement": "min_delta min_improvement early_stopping_threshold",
    "tracking.uri": "mlflow_uri tracking_uri mlflow.tracking_uri mlflow_tracking_uri",
    "tracking.experiment": "experiment_name project project_name wandb_project wandb.project",
    "logger": "report_to loggers log_with wandb use_wandb tensorboard",
    "database.url": "db db_url database_url db_uri",
    "output_dir": "default_root_dir save_dir out_dir logging_dir log_dir work_dir dirpath",
    "model_dir": "models_root_dir export_dir models_dir save_model_dir",
    "seed": "random_state random_seed seed_everything data_seed rng_seed",
    # sweeps
    "hydra.sweeper.n_trials": "n_trials num_trials trials max_trials",
    "hydra.sweeper.sampler": "sampler search_alg search_algorithm",
    "hydra.sweeper.pruner": "pruner prune",
    "sweep.objective": "optimized_metric objective_metric direction",
}

KEYS: dict[str, str] = {
    guess: key for key, guesses in _GUESSES_BY_KEY.items() for guess in guesses.split()
}
"""The key or override that each guess means."""

_WORDS_BY_SETTING = {
    "precision": {
        "16-mixed": "fp16 16 half float16 16-true amp",
        "bf16-mixed": "bf16 bfloat16",
        "32-true": "fp32 32 float32 full no single",
    },
    "optimizer": {
        "adamw": "adamw_torch adamw_hf adamw_torch_fused adamw_8bit paged_adamw_8bit",
        "sgd": "momentum nesterov",
        "adafactor": "adafactor_torch",
    },
    "schedule": {
        "cosine": "cosine_with_restarts cosine_annealing cosineannealinglr",
        "constant": "constant_with_warmup none",
        "inverse_sqrt": "invsqrt noam",
        "wsd": "warmup_stable_decay",
    },
    "loss": {
        "multiple_negatives_ranking": """mnrl mnr infonce info_nce ntxent in_batch_negatives
            multiplenegativesrankingloss cachedmultiplenegativesrankingloss contrastive_learning""",
        "multiple_negatives_symmetric_ranking": "multiplenegativessymmetricrankingloss clip",
        "cosent": "cosentloss",
        "angle": "angleloss angle_loss",
        "cosine_similarity": "cosinesimilarityloss cosine cosine_similarity_loss",
        "triplet": "tripletloss triplet_loss",
        "gist_embed": "gistembedloss gist cachedgistembedloss",
        "margin_mse": "marginmseloss marginmse",
        "contrastive": "contrastiveloss",
        "online_contrastive": "onlinecontrastiveloss",
        "batch_all_triplet": "batchalltripletloss",
        "batch_hard_triplet": "batchhardtripletloss",
        "supervised_contrastive": "supcon supervisedcontrastiveloss",
        "distill_kl_div": "distillkldivloss kl_div kldiv",
        "mse": "mseloss mse_loss",
    },
    "accelerator": {"gpu": "cuda nvidia mps"},
    "strategy": {
        "fsdp": "deepspeed zero zero3 fsdp2 deepspeed_stage_3",
        "ddp": "dp ddp_spawn ddp_find_unused_parameters_true",
    },
    "kind": {
        "none": "full full_finetuning no off all",
        "qlora": "lora_4bit 4bit",
        "swa": "stochastic_weight_averaging",
        "ema": "exponential",
    },
    "loss_type": {"sigmoid": "dpo"},
    "objective": {"supervised": "sft causal_lm", "preference": "dpo ipo pairwise"},
    "initialisation": {"default": "true gaussian kaiming"},
    "sampler": {"tpe": "bayes bayesian optuna", "cmaes": "cma cma-es", "grid": "gridsearch"},
    "pruner": {"asha": "successive_halving", "none": "nop off"},
    "similarity": {"cosine": "cos cos_sim", "dot": "dot_product dot_score"},
    "distance": {"euclidean": "l2", "manhattan": "l1"},
    "severity": {"warning": "warn", "error": "fail strict", "off": "none ignore disabled"},
    "start_from": {"base": "scratch pretrained", "root": "latest last best"},
    "model_type": {
        "embedding": "embeddings encoder retriever sentence-transformer bi-encoder",
        "llm": "lm language_model causal_lm decoder",
        "all": "both",
    },
    # groups, whose options have the names of models
    "embedding": {
        "minilm": "all-minilm-l6-v2 sentence-transformers/all-minilm-l6-v2 all-minilm",
        "mpnet": "all-mpnet-base-v2 sentence-transformers/all-mpnet-base-v2",
        "bge-small": "bge-small-en-v1.5 baai/bge-small-en-v1.5 bge",
        "e5-small": "multilingual-e5-small intfloat/multilingual-e5-small e5",
    },
    "llm": {
        "smollm2-135m": "smollm2 smollm huggingfacetb/smollm2-135m-instruct",
        "smollm2-360m": "huggingfacetb/smollm2-360m-instruct",
        "qwen2.5-0.5b": "qwen qwen/qwen2.5-0.5b-instruct qwen2.5",
        "deepseek-1.5b": "deepseek deepseek-ai/deepseek-r1-distill-qwen-1.5b",
    },
    "callbacks": {
        "default": "early_stopping earlystopping model_checkpoint modelcheckpoint",
        "swa": "stochasticweightaveraging",
        "learning_rates": "learningratemonitor lr_monitor",
        "device_stats": "devicestatsmonitor",
        "model_summary": "richmodelsummary modelsummary",
    },
    "logger": {
        "wandb": "wandblogger weights_and_biases",
        "tensorboard": "tensorboardlogger tb",
        "csv": "csvlogger",
        "default": "mlflow mlflowlogger none",
    },
    "trainer": {
        "bfloat16": "bf16",
        "float16": "fp16",
        "float32": "fp32",
        "gpu": "cuda",
        "fsdp": "deepspeed zero zero3 fsdp2 deepspeed_stage_3",
        "ddp": "dp distributed multi_gpu",
    },
    "tracking": {"sqlite": "local file", "server": "remote mlflow http"},
    "cross_validation": {"off": "none false"},
}

_WORDS_BY_COMMAND = {
    "train": "fit finetune fine-tune learn start sft dpo tune optimize hpo",
    "watch": "daemon monitor retrain autotrain poll cron",
    "resume": "continue restart retry",
    "plan": "estimate cost forecast dry-run dryrun budget eta",
    "prepare": "validate preprocess check-data split",
    "ingest": "import add load upload append insert put",
    "sessions": "list ls datasets data",
    "runs": "history experiments jobs ps",
    "sweep": "multirun sweeps search",
    "compare": "eval evaluate test diff benchmark",
    "root": "promote rollback registry models model versions",
    "report": "show describe inspect",
    "serve": "deploy host server predict",
    "doctor": "check status info diagnose env version verify",
    "ui": "mlflow dashboard web",
    "config": "settings cfg conf configure explain options params",
    "completion": "completions autocomplete install-completion",
}
COMMANDS: dict[str, str] = {
    word: command for command, words in _WORDS_BY_COMMAND.items() for word in words.split()
}
"""The command that other words stand for."""


def words_of(key: str) -> dict[str, str]:
    """Return the choices that other words, in small letters, stand for at a key or a group."""
    # The optimizer is a group, and `optimizer.name` a key below it.
    setting = key.removesuffix(".name").rpartition(".")[2]
    return {
        word: choice
        for choice, words in _WORDS_BY_SETTING.get(setting, {}).items()
        for word in words.split()
    }
