"""The whole study as one DAG: text -> tasks and models -> fine-tuned cells -> compressed cells -> tables -> report.

A cell is model x task x seed. Every rule runs one `python -m study.<step>` or `python -m report.<step>`; the log of a
job repeats its command, so that any step can be run and debugged by hand.
"""

import json
import shlex
import sys

from snakemake.logging import logger

sys.path.insert(0, workflow.basedir)

import baselines
from study import config as study_config
from study.errors import UserError
from study.progress import show_progress

if not workflow.overwrite_configfiles:

    configfile: "config/mini.yaml"


try:
    config = study_config.load(config, baselines.METHODS)
except UserError as error:
    sys.exit(f"error: {error}")

RESULTS = f"results/{config['study']}"
CELL = f"{RESULTS}/cells/{{model}}/{{task}}/seed{{seed}}"
CONTROLS = ["full", "none"]
METHODS = CONTROLS + [method for method in config["methods"] if method not in CONTROLS]
PRETRAINED_HERE = [name for name, model in config["models"].items() if model["source"] == "pretraining"]
CELLS = {"model": list(config["models"]), "task": list(config["tasks"]), "seed": config["seeds"]}
ENVIRONMENT = "envs/environment.yaml"

show_progress(logger)


wildcard_constraints:
    model="[a-z0-9][a-z0-9._-]*",
    task="[a-z0-9][a-z0-9._-]*",
    method="[a-z0-9][a-z0-9._-]*",
    seed=r"\d+",


# What depends on the wildcards, from the config.


def as_json(value):
    """A part of the config as one word of a shell command."""
    return shlex.quote(json.dumps(value, sort_keys=True))


def get_task_packages(name):
    task = config["tasks"][name]
    if task["source"] == "files":
        return []
    return task["classes"] if task["label"] == "library" else [task["package"]]


def get_task_text(wildcards):
    """Corpora of a docstring task, or the files of a task of the user's own."""
    task = config["tasks"][wildcards.task]
    if task["source"] == "files":
        return [task[split].partition("#")[0] for split in ("train", "validation", "test") if split in task]
    return expand(f"{RESULTS}/corpus/{{package}}.parquet", package=get_task_packages(wildcards.task))


def get_task_spec(wildcards):
    task = config["tasks"][wildcards.task]
    if task["source"] == "docstrings":
        task = task | {key: config["corpus"][key] for key in ("min_words", "max_words")}
    return as_json(task)


def get_checkpoint(wildcards):
    """Folder that a model comes from: the user's, the one that comes with the suite, or pre-trained here."""
    model = config["models"][wildcards.model]
    return model.get("path") or model.get("checkpoint") or f"{RESULTS}/pretraining/{wildcards.model}"


def get_checkpoint_manifest(wildcards):
    """A small file of that folder, to depend on instead of gigabytes of weights."""
    own = config["models"][wildcards.model]["source"] == "directory"
    return f"{get_checkpoint(wildcards)}/{'config' if own else 'manifest'}.json"


def get_finetuning(wildcards, arm="pretrained"):
    """Settings of a cell: the section finetuning with what the model overrides."""
    settings = config["finetuning"] | {"evaluation_batch_size": config["evaluation"]["batch_size"]}
    model = config["models"][wildcards.model]
    settings |= {key: model[key] for key in settings.keys() & model.keys()}
    scratch_rate = model.get("random_init_learning_rate", config["finetuning"].get("random_init_learning_rate"))
    if arm == "random-init" and scratch_rate is not None:
        settings["learning_rate"] = scratch_rate
    return as_json({k: v for k, v in settings.items() if k not in ("random_init", "random_init_learning_rate")})


def get_random_init_manifests(wildcards):
    pattern = f"{CELL}/random-init/manifest.json"
    return expand(pattern, **CELLS) if config["finetuning"]["random_init"] else []


rule all:
    input:
        f"{RESULTS}/report/index.html",
    default_target: True


rule figures:
    input:
        f"{RESULTS}/figures/.done",
        f"{RESULTS}/figures/kenviz.svg",


rule pretrain:
    input:
        f"{RESULTS}/pretraining/comparison.csv",


rule tune:
    input:
        expand(f"{RESULTS}/tuning/{{model}}.csv", model=config["models"]),


# Text and tasks.


rule extract_docstrings:
    output:
        corpus=f"{RESULTS}/corpus/{{package}}.parquet",
        manifest=f"{RESULTS}/corpus/{{package}}.json",
    log:
        f"{RESULTS}/logs/extract_docstrings/{{package}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/extract_docstrings/{{package}}.tsv"
    conda:
        ENVIRONMENT
    shell:
        "python -m study.corpus {wildcards.package} --out {output.corpus} > {log} 2>&1"


rule build_task:
    input:
        get_task_text,
    output:
        manifest=f"{RESULTS}/tasks/{{task}}/manifest.json",
        splits=expand(f"{RESULTS}/tasks/{{{{task}}}}/{{split}}.parquet", split=["train", "validation", "test"]),
    log:
        f"{RESULTS}/logs/build_task/{{task}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/build_task/{{task}}.tsv"
    params:
        folder=f"{RESULTS}/tasks/{{task}}",
        spec=get_task_spec,
        corpus=lambda wildcards, input: "--corpus " + " ".join(input) if get_task_packages(wildcards.task) else "",
    conda:
        ENVIRONMENT
    shell:
        "python -m study.tasks --name {wildcards.task} --spec {params.spec} {params.corpus}"
        " --out {params.folder} > {log} 2>&1"


# Models.


rule pretrain_model:
    input:
        expand(f"{RESULTS}/corpus/{{package}}.parquet", package=config.get("corpus", {}).get("packages", [])),
    output:
        f"{RESULTS}/pretraining/{{model}}/manifest.json",
    log:
        f"{RESULTS}/logs/pretrain_model/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/pretrain_model/{{model}}.tsv"
    params:
        folder=f"{RESULTS}/pretraining/{{model}}",
        architecture=lambda wildcards: config["models"][wildcards.model]["architecture"],
        size=lambda wildcards: as_json(config["models"][wildcards.model]["size"]),
        settings=as_json(config["pretraining"]),
    conda:
        ENVIRONMENT
    shell:
        "python -m study.pretrain --architecture {params.architecture} --size {params.size}"
        " --settings {params.settings} --corpus {input} --out {params.folder} > {log} 2>&1"


rule compare_checkpoints:
    input:
        expand(f"{RESULTS}/pretraining/{{model}}/manifest.json", model=PRETRAINED_HERE),
    output:
        f"{RESULTS}/pretraining/comparison.csv",
    log:
        f"{RESULTS}/logs/compare_checkpoints.log",
    params:
        folders=lambda wildcards, input: [path.removesuffix("/manifest.json") for path in input],
        committed=[config["models"][name].get("checkpoint", "-") for name in PRETRAINED_HERE],
    conda:
        ENVIRONMENT
    shell:
        "python -m study.checkpoints --made {params.folders} --committed {params.committed}"
        " --out {output} > {log} 2>&1"


rule import_model:
    input:
        get_checkpoint_manifest,
    output:
        f"{RESULTS}/models/{{model}}/pretrained/manifest.json",
    log:
        f"{RESULTS}/logs/import_model/{{model}}.log",
    params:
        folder=f"{RESULTS}/models/{{model}}/pretrained",
        checkpoint=get_checkpoint,
    conda:
        ENVIRONMENT
    shell:
        "python -m study.import_model {params.checkpoint} --name {wildcards.model} --out {params.folder} > {log} 2>&1"


rule tune_model:
    input:
        model=f"{RESULTS}/models/{{model}}/pretrained/manifest.json",
        tasks=expand(f"{RESULTS}/tasks/{{task}}/manifest.json", task=config["tasks"]),
    output:
        f"{RESULTS}/tuning/{{model}}.csv",
    log:
        f"{RESULTS}/logs/tune_model/{{model}}.log",
    params:
        pretrained=f"{RESULTS}/models/{{model}}/pretrained",
        tasks=expand(f"{RESULTS}/tasks/{{task}}", task=config["tasks"]),
        grid=as_json(config["tuning"]),
        settings=get_finetuning,
    conda:
        ENVIRONMENT
    shell:
        "python -m study.tune --model {wildcards.model} --pretrained {params.pretrained} --tasks {params.tasks}"
        " --grid {params.grid} --settings {params.settings} --out {output} > {log} 2>&1"


# Cells.


rule finetune_model:
    input:
        model=f"{RESULTS}/models/{{model}}/pretrained/manifest.json",
        task=f"{RESULTS}/tasks/{{task}}/manifest.json",
    output:
        f"{CELL}/finetuned/manifest.json",
    log:
        f"{RESULTS}/logs/finetune_model/{{model}}-{{task}}-{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/finetune_model/{{model}}-{{task}}-{{seed}}.tsv"
    params:
        pretrained=f"{RESULTS}/models/{{model}}/pretrained",
        task=f"{RESULTS}/tasks/{{task}}",
        settings=get_finetuning,
        folder=f"{CELL}/finetuned",
    conda:
        ENVIRONMENT
    shell:
        "python -m study.finetune --model {wildcards.model} --task {wildcards.task} --seed {wildcards.seed}"
        " --pretrained {params.pretrained} --task-folder {params.task} --settings {params.settings}"
        " --out {params.folder} > {log} 2>&1"


rule finetune_random_init:
    input:
        model=f"{RESULTS}/models/{{model}}/pretrained/manifest.json",
        task=f"{RESULTS}/tasks/{{task}}/manifest.json",
    output:
        f"{CELL}/random-init/manifest.json",
    log:
        f"{RESULTS}/logs/finetune_random_init/{{model}}-{{task}}-{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/finetune_random_init/{{model}}-{{task}}-{{seed}}.tsv"
    params:
        pretrained=f"{RESULTS}/models/{{model}}/pretrained",
        task=f"{RESULTS}/tasks/{{task}}",
        settings=lambda wildcards: get_finetuning(wildcards, arm="random-init"),
        folder=f"{CELL}/random-init",
    conda:
        ENVIRONMENT
    shell:
        "python -m study.finetune --model {wildcards.model} --task {wildcards.task} --seed {wildcards.seed}"
        " --pretrained {params.pretrained} --task-folder {params.task} --settings {params.settings}"
        " --arm random-init --out {params.folder} > {log} 2>&1"


rule compress_model:
    input:
        f"{CELL}/finetuned/manifest.json",
    output:
        # Kept over a rerun: rows whose inputs have not changed are not computed again.
        update(expand(f"{CELL}/compressed/{{method}}/scores.csv", method=METHODS, allow_missing=True)),
    log:
        f"{RESULTS}/logs/compress_model/{{model}}-{{task}}-{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/compress_model/{{model}}-{{task}}-{{seed}}.tsv"
    params:
        finetuned=f"{CELL}/finetuned",
        task=f"{RESULTS}/tasks/{{task}}",
        methods=METHODS,
        kept_shares=as_json(config["kept_shares"]),
        draws=config["draws"],
        settings=as_json(config["evaluation"] | {"max_length": config["finetuning"]["max_length"]}),
        folder=f"{CELL}/compressed",
        # Snakemake does not see the modules that a step imports.
        sources=[baselines.source_hash(baselines.METHODS[method]) for method in METHODS],
    conda:
        ENVIRONMENT
    shell:
        "python -m study.compress --finetuned {params.finetuned} --task-folder {params.task}"
        " --methods {params.methods} --kept-shares {params.kept_shares} --draws {params.draws}"
        " --settings {params.settings} --out {params.folder} > {log} 2>&1"


# Tables, figures, report.


rule collect_scores:
    input:
        expand(f"{CELL}/compressed/{{method}}/scores.csv", method=METHODS, **CELLS),
        expand(f"{CELL}/finetuned/manifest.json", **CELLS),
        get_random_init_manifests,
    output:
        expand(f"{RESULTS}/{{table}}.csv", table=["scores", "finetuning", "tasks", "models"]),
    log:
        f"{RESULTS}/logs/collect_scores.log",
    benchmark:
        f"{RESULTS}/benchmarks/collect_scores.tsv"
    params:
        **CELLS,
        folder=RESULTS,
        methods=METHODS,
        random_init="--random-init" if config["finetuning"]["random_init"] else "",
    conda:
        ENVIRONMENT
    shell:
        "python -m study.collect {params.folder} --models {params.model} --tasks {params.task}"
        " --seeds {params.seed} --methods {params.methods} {params.random_init} > {log} 2>&1"


rule record_provenance:
    input:
        f"{RESULTS}/scores.csv",
    output:
        f"{RESULTS}/provenance.json",
    log:
        f"{RESULTS}/logs/record_provenance.log",
    params:
        folder=RESULTS,
        config=as_json(config),
    conda:
        ENVIRONMENT
    shell:
        "python -m study.record {params.folder} --config {params.config} > {log} 2>&1"


rule make_tables:
    input:
        f"{RESULTS}/scores.csv",
        f"{RESULTS}/finetuning.csv",
        "report/tables.py",
    output:
        touch(f"{RESULTS}/tables/.done"),
    log:
        f"{RESULTS}/logs/make_tables.log",
    params:
        folder=RESULTS,
    conda:
        ENVIRONMENT
    shell:
        "python -m report.tables --results {params.folder} --out {params.folder}/tables > {log} 2>&1"


rule draw_figures:
    input:
        f"{RESULTS}/scores.csv",
        f"{RESULTS}/finetuning.csv",
        "report/figures.py",
        "report/style.py",
    output:
        touch(f"{RESULTS}/figures/.done"),
    log:
        f"{RESULTS}/logs/draw_figures.log",
    params:
        folder=RESULTS,
    conda:
        ENVIRONMENT
    shell:
        "python -m report.figures --results {params.folder} --out {params.folder}/figures > {log} 2>&1"
