"""Models: pre-training, import from a folder or the hub, and the search for learning rates."""


rule pretrain_model:
    input:
        RULES.corpora(STUDY.config.get("corpus", {}).get("packages", [])),
    output:
        PATHS.pretraining("{model}") / "manifest.json",
    log:
        PATHS.log("pretrain_model", "{model}"),
    benchmark:
        PATHS.benchmark("pretrain_model", "{model}")
    conda:
        ENVIRONMENT
    resources:
        gpu=GPU,
    params:
        settings=lambda wildcards: as_json(STUDY.pretraining_settings(wildcards.model)),
        code=code_hash("study.pretrain"),
    shell:
        logged("study.pretrain", f"{RESULTS} --model {{wildcards.model}}")


rule compare_checkpoints:
    input:
        [PATHS.pretraining(model) / "manifest.json" for model in STUDY.pretrained_models],
    output:
        PATHS.pretraining("comparison.csv"),
    log:
        PATHS.log("compare_checkpoints"),
    conda:
        ENVIRONMENT
    params:
        committed=[STUDY.models[model].get("checkpoint", "") for model in STUDY.pretrained_models],
        code=code_hash("study.compare_checkpoints"),
    shell:
        logged("study.compare_checkpoints", f"{RESULTS}")


rule import_model:
    input:
        RULES.checkpoint_inputs,
    output:
        PATHS.pretrained("{model}") / "manifest.json",
    log:
        PATHS.log("import_model", "{model}"),
    conda:
        ENVIRONMENT
    params:
        settings=lambda wildcards: as_json(STUDY.import_settings(wildcards.model)),
        code=code_hash("study.import_model"),
    shell:
        logged("study.import_model", f"{RESULTS} --model {{wildcards.model}}")


rule tune_model:
    input:
        model=PATHS.pretrained("{model}") / "manifest.json",
        tasks=[PATHS.task(task) / "manifest.json" for task in STUDY.axes["task"]],
    output:
        PATHS.tuning("{model}"),
    log:
        PATHS.log("tune_model", "{model}"),
    conda:
        ENVIRONMENT
    resources:
        gpu=GPU,
    params:
        settings=lambda wildcards: as_json(STUDY.tuning_settings(wildcards.model)),
        code=code_hash("study.tune"),
    shell:
        logged("study.tune", f"{RESULTS} --model {{wildcards.model}}")


rule pretrain:
    input:
        rules.compare_checkpoints.output,


rule tune:
    input:
        [PATHS.tuning(model) for model in STUDY.axes["model"]],
