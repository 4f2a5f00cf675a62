"""Cells: fine-tuned models, their compression by every method, inference times and ablations."""

import re

ON_CELL = f"{RESULTS} --model {{wildcards.model}} --task {{wildcards.task}} --seed {{wildcards.seed}}"
TASK = PATHS.task("{task}") / "manifest.json"
FINETUNED = PATHS.finetuned(*CELL) / "manifest.json"


rule finetune_model:
    input:
        model=PATHS.pretrained("{model}") / "manifest.json",
        task=TASK,
    output:
        FINETUNED,
    log:
        PATHS.log("finetune_model", *CELL),
    benchmark:
        PATHS.benchmark("finetune_model", *CELL)
    conda:
        ENVIRONMENT
    resources:
        gpu=GPU,
    params:
        settings=lambda wildcards: as_json(STUDY.finetuning_settings(wildcards.model)),
        code=code_hash("study.finetune"),
    shell:
        logged("study.finetune", ON_CELL)


rule finetune_random_init:
    input:
        model=PATHS.pretrained("{model}") / "manifest.json",
        task=TASK,
    output:
        PATHS.random_init(*CELL) / "manifest.json",
    log:
        PATHS.log("finetune_random_init", *CELL),
    benchmark:
        PATHS.benchmark("finetune_random_init", *CELL)
    conda:
        ENVIRONMENT
    resources:
        gpu=GPU,
    params:
        settings=lambda wildcards: as_json(STUDY.finetuning_settings(wildcards.model, "random-init")),
        code=code_hash("study.finetune"),
    shell:
        logged("study.finetune", f"{ON_CELL} --arm random-init")


rule compress_model:
    input:
        finetuned=FINETUNED,
        task=TASK,
    output:
        [PATHS.scores(*CELL, method) for method in RULES.post_hoc],
        [PATHS.suggested(*CELL) / f"{table}.csv" for table in ("suggestions", "curves") if STUDY.suggests],
    log:
        PATHS.log("compress_model", *CELL),
    benchmark:
        PATHS.benchmark("compress_model", *CELL)
    priority: 1  # finish a cell before the next one, whose models take space
    conda:
        ENVIRONMENT
    resources:
        gpu=GPU,
    params:
        settings=lambda wildcards: RULES.compression_settings(RULES.post_hoc, wildcards),
        suggestion=as_json(STUDY.suggests and STUDY.config["suggestion"]),
        code=RULES.method_code("study.compress", [*RULES.post_hoc, *RULES.searched]),
    shell:
        logged("study.compress", ON_CELL)


rule train_method:
    input:
        finetuned=FINETUNED,
        task=TASK,
    output:
        PATHS.scores(*CELL, "{method}"),
    log:
        PATHS.log("train_method", *CELL, "{method}"),
    benchmark:
        PATHS.benchmark("train_method", *CELL, "{method}")
    wildcard_constraints:
        method="|".join(map(re.escape, RULES.trained)) or "$",
    priority: 1  # finish a cell before the next one, whose models take space
    conda:
        ENVIRONMENT
    resources:
        gpu=GPU,
    params:
        settings=lambda wildcards: RULES.compression_settings([wildcards.method], wildcards),
        code=lambda wildcards: RULES.method_code("study.compress", [wildcards.method]),
    shell:
        logged("study.compress", f"{ON_CELL} --method {{wildcards.method}}")


rule measure_inference:
    input:
        scores=[PATHS.scores(*CELL, method) for method in ("full", *STUDY.config["inference"]["methods"])],
        finetuned=FINETUNED,
        task=TASK,
    output:
        PATHS.inference(*CELL),
    log:
        PATHS.log("measure_inference", *CELL),
    benchmark:
        PATHS.benchmark("measure_inference", *CELL)
    priority: 1  # finish a cell before the next one, whose models take space
    conda:
        ENVIRONMENT
    params:
        measured=as_json(STUDY.config["inference"]),
        settings=lambda wildcards: RULES.compression_settings(STUDY.config["inference"]["methods"], wildcards),
        code=RULES.method_code("study.inference", STUDY.config["inference"]["methods"]),
    shell:
        logged("study.inference", ON_CELL)


rule check_cell:
    input:
        finetuned=FINETUNED,
        task=TASK,
    output:
        PATHS.checks(*CELL) / "checks.csv",
    log:
        PATHS.log("check_cell", *CELL),
    benchmark:
        PATHS.benchmark("check_cell", *CELL)
    priority: 1  # finish a cell before the next one, whose models take space
    conda:
        ENVIRONMENT
    resources:
        gpu=GPU,
    params:
        settings=lambda wildcards: as_json(STUDY.ablation_settings(wildcards.task)),
        code=RULES.method_code("study.checks", ["ken", "magnitude"]),
    shell:
        logged("study.checks", ON_CELL)


rule release_cell:
    input:
        RULES.finished_cell,
    output:
        PATHS.released(*CELL),
    log:
        PATHS.log("release_cell", *CELL),
    priority: 2
    conda:
        ENVIRONMENT
    params:
        code=code_hash("study.release"),
    shell:
        logged("study.release", ON_CELL)
