"""Text and tasks."""


rule extract_docstrings:
    output:
        corpus=PATHS.corpus("{package}"),
        manifest=PATHS.corpus("{package}").with_suffix(".json"),
    log:
        PATHS.log("extract_docstrings", "{package}"),
    benchmark:
        PATHS.benchmark("extract_docstrings", "{package}")
    conda:
        ENVIRONMENT
    params:
        code=code_hash("study.corpus"),
    shell:
        logged("study.corpus", f"{RESULTS} --package {{wildcards.package}}")


rule build_task:
    input:
        RULES.task_inputs,
    output:
        manifest=PATHS.task("{task}") / "manifest.json",
        splits=[PATHS.task("{task}") / f"{split}.parquet" for split in SPLITS],
    log:
        PATHS.log("build_task", "{task}"),
    benchmark:
        PATHS.benchmark("build_task", "{task}")
    conda:
        ENVIRONMENT
    params:
        settings=lambda wildcards: as_json(STUDY.task_settings(wildcards.task)),
        code=code_hash("study.tasks"),
    shell:
        logged("study.tasks", f"{RESULTS} --task {{wildcards.task}}")


rule build_text:
    input:
        RULES.text_inputs,
    output:
        manifest=PATHS.text("{experiment}") / "manifest.json",
        splits=[PATHS.text("{experiment}") / f"{split}.parquet" for split in SPLITS],
    log:
        PATHS.log("build_text", "{experiment}"),
    benchmark:
        PATHS.benchmark("build_text", "{experiment}")
    conda:
        ENVIRONMENT
    params:
        settings=lambda wildcards: as_json(STUDY.text_settings(wildcards.experiment)),
        code=code_hash("study.text"),
    shell:
        logged("study.text", f"{RESULTS} --experiment {{wildcards.experiment}}")
