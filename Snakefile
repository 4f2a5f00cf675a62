"""The whole study as one DAG: text -> tasks and models -> fine-tuned cells -> compressed cells -> tables -> report.

A cell is model x task x seed. Every rule runs one `python -m study.<step>` or `python -m report.<step>`; the log of a
job repeats its command, so that any step can be run and debugged by hand.
"""

import json
import re
import shlex
import sys
from pathlib import Path

sys.path.insert(0, workflow.basedir)

import baselines
from report import outputs
from study import config as study_config
from study.definition import method_settings
from study.running import device, files
from ken.errors import UserError
from study.running.progress import benchmarked_seconds, show_progress
from study.running.workflow import hold_study, prepare_environment

if not workflow.overwrite_configfiles:

    configfile: "config/mini.yaml"


try:
    # study.rebuild looks at the rules of the report only, for which data and models need not be there.
    config = study_config.load(config, baselines.METHODS, sources=not config.pop("report_only", False))
    if not workflow.dryrun:
        files.check_writable(f"results/{config['study']}")
    prepare_environment(config["device"], config["finetuning"]["checkpoint_minutes"])
    GPU = min(1, len(device.gpus()))  # of a job; the pool of all jobs is one unless --resources gpu=... says more
except UserError as error:
    sys.exit(f"error: {error}")

RESULTS = f"results/{config['study']}"
CELL = f"{RESULTS}/cells/{{model}}/{{task}}/seed{{seed}}"
CONTROLS = ["full", "none"]
METHODS = CONTROLS + [method for method in config["methods"] if method not in CONTROLS]
TRAINED = [method for method in METHODS if isinstance(baselines.METHODS[method], baselines.TrainedMethod)]
POST_HOC = [method for method in METHODS if method not in TRAINED]
SUGGESTED = config["suggestion"]["methods"]
PRETRAINED_HERE = [name for name, model in config["models"].items() if model["source"] == "pretraining"]
CELLS = {"model": list(config["models"]), "task": list(config["tasks"]), "seed": config["seeds"]}
TRAINED_CELLS = {axis: config["trained_on"].get(f"{axis}s", CELLS[axis]) for axis in CELLS}
MEASURED = config["inference"]["methods"]
SPREAD = config["spread"]["methods"]
TIMED = config["timing"]["heights"]
LANGUAGE = config["language_modelling"]
EXPERIMENTS = [name for name in ("pruning", "adaptation") if LANGUAGE["models"] and "text" in LANGUAGE[name]]
LANGUAGE_CELL = f"{RESULTS}/language/{{model}}/seed{{seed}}"
LANGUAGE_CELLS = {"model": list(LANGUAGE["models"]), "seed": config["seeds"]}
ADAPTATION_METHODS = CONTROLS + [name for name in LANGUAGE["adaptation"]["methods"] if name not in CONTROLS]
MODELS = config["models"] | LANGUAGE["models"]
CHECKED = any(config["checks"][check] for check in ("bandwidth_factors", "zero", "matrices"))
RANDOM_INIT_SEEDS = config["finetuning"].get("random_init_seeds", config["seeds"][:1])
PARTS = [*EXPERIMENTS, *(["random-init"] if RANDOM_INIT_SEEDS else [])]
TABLES = outputs.table_names(PARTS)
FIGURES = outputs.figure_names(PARTS)
STATISTICS = outputs.STATISTICS
PUBLICATION = outputs.PUBLICATION
MEASUREMENTS = sorted(map(str, Path("report/measurements").glob("*.py")))
ENVIRONMENT = "envs/environment.yaml"

if GPU and "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", 1)

show_progress(workflow, benchmarked_seconds(f"{RESULTS}/benchmarks"))


wildcard_constraints:
    model="[a-z0-9][a-z0-9._-]*",
    task="[a-z0-9][a-z0-9._-]*",
    method="[a-z0-9][a-z0-9._-]*",
    seed=r"\d+",
    experiment="pruning|adaptation",


# What depends on the wildcards, from the config.


def as_json(value):
    """A part of the config as one word of a shell command."""
    return shlex.quote(json.dumps(value, sort_keys=True))


def get_task_packages(name):
    task = config["tasks"][name]
    if task["source"] != "docstrings":
        return []
    return task["classes"] if task["label"] == "library" else [task["package"]]


def get_task_text(wildcards):
    """Corpora of a docstring task, or the files of a task of the user's own; one from the hub needs none."""
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
    """The folder that a model comes from: the user's, one of the suite's, or one pre-trained here."""
    model = MODELS[wildcards.model]
    return model.get("path") or model.get("checkpoint") or f"{RESULTS}/pretraining/{wildcards.model}"


def get_checkpoint_arguments(wildcards):
    """The same, or a repository of the hub, as words of a shell command."""
    model = MODELS[wildcards.model]
    if model["source"] == "hub":
        return f"{shlex.quote(model['repository'])} --revision {shlex.quote(model['revision'])}"
    return shlex.quote(get_checkpoint(wildcards))


def get_checkpoint_manifest(wildcards):
    """A small file of that folder, to depend on instead of gigabytes of weights; there is none on the hub."""
    manifests = {"hub": [], "directory": ["config.json"], "pretraining": ["manifest.json"]}
    return [f"{get_checkpoint(wildcards)}/{name}" for name in manifests[MODELS[wildcards.model]["source"]]]


def get_finetuning(wildcards, arm="pretrained"):
    """Settings of a cell: the section finetuning with what the model overrides."""
    settings = config["finetuning"] | {"evaluation_batch_size": config["evaluation"]["batch_size"]}
    model = config["models"][wildcards.model]
    settings |= {key: model[key] for key in settings.keys() & model.keys()}
    scratch_rate = model.get("random_init_learning_rate", config["finetuning"].get("random_init_learning_rate"))
    if arm == "random-init" and scratch_rate is not None:
        settings["learning_rate"] = scratch_rate
    own = ("random_init_learning_rate", "random_init_seeds", "checkpoint_minutes")
    return as_json({key: value for key, value in settings.items() if key not in own})


def get_method_settings(methods):
    """What study.compress needs to know about the methods, as JSON."""
    own = {name: found for name, found in config["method_settings"].items() if name in methods}
    plain = {key: config[key] for key in ("kept_shares", "draws")}
    # Left out where it says nothing: a change of what a step is called with runs it again.
    if scores_only := [name for name in config["scores_only"] if name in methods]:
        plain["scores_only"] = scores_only
    evaluation = config["evaluation"] | {"max_length": config["finetuning"]["max_length"]}
    return as_json(plain | evaluation | {"methods": own})


def get_scores(wildcards):
    """Scores of the post-hoc methods on all cells and of those that train on theirs."""
    scores = f"{CELL}/compressed/{{method}}/scores.csv"
    return expand(scores, method=POST_HOC, **CELLS) + expand(scores, method=TRAINED, **TRAINED_CELLS)


def get_inference(wildcards):
    return expand(f"{CELL}/inference.csv", **TRAINED_CELLS) if MEASURED else []


def get_checks(wildcards):
    return expand(f"{CELL}/checks/checks.csv", **TRAINED_CELLS) if CHECKED else []


def get_random_init_manifests(wildcards):
    return expand(f"{CELL}/random-init/manifest.json", **CELLS | {"seed": RANDOM_INIT_SEEDS})


def get_suggestions(wildcards):
    return expand(f"{CELL}/suggested/suggestions.csv", **CELLS) if SUGGESTED else []


def get_kenviz_cell():
    """Cell, method and kept share that KENviz shows."""
    return config["kenviz"] | {"seed": config["seeds"][0]}


def get_kenviz_scores(wildcards):
    return f"{CELL}/compressed/{{method}}/scores.csv".format(**get_kenviz_cell())


def get_kenviz_subnetwork(wildcards):
    return f"{CELL}/compressed/{{method}}/draw0/{{kept_share}}.safetensors".format(**get_kenviz_cell())


def get_kenviz_finetuned(wildcards):
    return f"{CELL}/finetuned/manifest.json".format(**get_kenviz_cell())


def get_kenviz_compared(wildcards):
    """Sub-networks of the same cell and share, by methods that reset, for the page to switch between."""
    cell, compared = get_kenviz_cell(), []
    for name in POST_HOC:
        method = baselines.METHODS[name]
        has_share = cell["kept_share"] in method_settings.budgets_in(config, method)
        if method.family == "reset" and has_share and name not in config["scores_only"]:
            compared.append(name)
    stored = f"{CELL}/compressed/{{method}}/draw0/{{kept_share}}.safetensors"
    return [stored.format(**cell | {"method": name}) for name in compared]


def get_language_text(wildcards):
    """Corpora of a text from docstrings, or the files of a text of the user's own; one from the hub needs none."""
    text = LANGUAGE[wildcards.experiment]["text"]
    if text["source"] == "files":
        return [text[split] for split in ("train", "validation", "test") if split in text]
    return expand(f"{RESULTS}/corpus/{{package}}.parquet", package=text.get("packages", []))


def get_language_settings(experiment):
    """What the steps of an experiment on language models need to know, as JSON."""
    settings = LANGUAGE[experiment] | {key: LANGUAGE[key] for key in ("max_length", "batch_size")}
    if experiment == "adaptation":
        settings |= {"draws": config["draws"], "methods": config["method_settings"]}
    return as_json({key: value for key, value in settings.items() if key != "text"})


def get_perplexity(wildcards):
    """Perplexities of all language models, if the study has any."""
    found = f"{LANGUAGE_CELL}/{{experiment}}/perplexity.csv"
    return expand(found, experiment=EXPERIMENTS, **LANGUAGE_CELLS)


def get_spread_scores(wildcards):
    cells = CELLS | {"task": CELLS["task"][:1], "seed": CELLS["seed"][:1]}
    return expand(f"{CELL}/compressed/{{method}}/scores.csv", method=SPREAD, **cells)


rule all:
    default_target: True
    input:
        f"{RESULTS}/report/index.html",
        expand(f"{RESULTS}/publication/{{table}}.tex", table=PUBLICATION),
        f"{RESULTS}/manifest.json",


rule figures:
    input:
        expand(f"{RESULTS}/figures/{{figure}}.svg", figure=[*FIGURES, "kenviz"]),


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
    conda:
        ENVIRONMENT
    params:
        folder=subpath(output.manifest, parent=True),
        spec=get_task_spec,
        corpus=lambda wildcards, input: "--corpus " + " ".join(input) if get_task_packages(wildcards.task) else "",
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
    conda:
        ENVIRONMENT
    params:
        folder=subpath(output[0], parent=True),
        architecture=lambda wildcards: MODELS[wildcards.model]["architecture"],
        size=lambda wildcards: as_json(MODELS[wildcards.model]["size"]),
        settings=as_json(config["pretraining"]),
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
    conda:
        ENVIRONMENT
    params:
        folders=lambda wildcards, input: [Path(manifest).parent for manifest in input],
        committed=[config["models"][name].get("checkpoint", "-") for name in PRETRAINED_HERE],
    shell:
        "python -m study.compare_checkpoints --made {params.folders} --committed {params.committed}"
        " --out {output} > {log} 2>&1"


rule import_model:
    input:
        get_checkpoint_manifest,
    output:
        f"{RESULTS}/models/{{model}}/pretrained/manifest.json",
    log:
        f"{RESULTS}/logs/import_model/{{model}}.log",
    conda:
        ENVIRONMENT
    params:
        folder=subpath(output[0], parent=True),
        checkpoint=get_checkpoint_arguments,
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
    conda:
        ENVIRONMENT
    resources:
        gpu=GPU,
    params:
        pretrained=subpath(input.model, parent=True),
        tasks=lambda wildcards, input: [Path(manifest).parent for manifest in input.tasks],
        arms=["pretrained", *(["random-init"] if RANDOM_INIT_SEEDS else [])],
        grid=as_json(config["tuning"]),
        settings=get_finetuning,
    shell:
        "python -m study.tune --model {wildcards.model} --pretrained {params.pretrained} --tasks {params.tasks}"
        " --arms {params.arms} --grid {params.grid} --settings {params.settings} --out {output} > {log} 2>&1"


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
    conda:
        ENVIRONMENT
    resources:
        gpu=GPU,
    params:
        pretrained=subpath(input.model, parent=True),
        task=subpath(input.task, parent=True),
        settings=get_finetuning,
        folder=subpath(output[0], parent=True),
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
    conda:
        ENVIRONMENT
    resources:
        gpu=GPU,
    params:
        pretrained=subpath(input.model, parent=True),
        task=subpath(input.task, parent=True),
        settings=lambda wildcards: get_finetuning(wildcards, arm="random-init"),
        folder=subpath(output[0], parent=True),
    shell:
        "python -m study.finetune --model {wildcards.model} --task {wildcards.task} --seed {wildcards.seed}"
        " --pretrained {params.pretrained} --task-folder {params.task} --settings {params.settings}"
        " --arm random-init --out {params.folder} > {log} 2>&1"


rule compress_model:
    input:
        finetuned=f"{CELL}/finetuned/manifest.json",
        task=f"{RESULTS}/tasks/{{task}}/manifest.json",
    output:
        expand(f"{CELL}/compressed/{{method}}/scores.csv", method=POST_HOC, allow_missing=True),
        [f"{CELL}/suggested/{table}.csv" for table in ("suggestions", "curves") if SUGGESTED],
    log:
        f"{RESULTS}/logs/compress_model/{{model}}-{{task}}-{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/compress_model/{{model}}-{{task}}-{{seed}}.tsv"
    conda:
        ENVIRONMENT
    resources:
        gpu=GPU,
    params:
        finetuned=subpath(input.finetuned, parent=True),
        task=subpath(input.task, parent=True),
        methods=POST_HOC,
        settings=get_method_settings(POST_HOC),
        suggest=f"--suggest {as_json(config['suggestion'])}" if SUGGESTED else "",
        folder=subpath(output[0], ancestor=3),
        # Snakemake does not see the modules that a step imports.
        sources=[baselines.source_hash(baselines.METHODS[method]) for method in [*POST_HOC, *SUGGESTED]],
    shell:
        "python -m study.compress --finetuned {params.finetuned} --task-folder {params.task}"
        " --methods {params.methods} --settings {params.settings} {params.suggest} --out {params.folder} > {log} 2>&1"


rule train_method:
    input:
        finetuned=f"{CELL}/finetuned/manifest.json",
        task=f"{RESULTS}/tasks/{{task}}/manifest.json",
    output:
        f"{CELL}/compressed/{{method}}/scores.csv",
    log:
        f"{RESULTS}/logs/train_method/{{model}}-{{task}}-{{seed}}-{{method}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train_method/{{model}}-{{task}}-{{seed}}-{{method}}.tsv"
    wildcard_constraints:
        method="|".join(map(re.escape, TRAINED)) or "$",
    conda:
        ENVIRONMENT
    resources:
        gpu=GPU,
    params:
        finetuned=subpath(input.finetuned, parent=True),
        task=subpath(input.task, parent=True),
        settings=lambda wildcards: get_method_settings([wildcards.method]),
        folder=subpath(output[0], ancestor=3),
        sources=lambda wildcards: baselines.source_hash(baselines.METHODS[wildcards.method]),
    shell:
        "python -m study.compress --finetuned {params.finetuned} --task-folder {params.task}"
        " --methods {wildcards.method} --settings {params.settings} --out {params.folder} > {log} 2>&1"


rule measure_inference:
    input:
        scores=expand(f"{CELL}/compressed/{{method}}/scores.csv", method=["full", *MEASURED], allow_missing=True),
        finetuned=f"{CELL}/finetuned/manifest.json",
        task=f"{RESULTS}/tasks/{{task}}/manifest.json",
    output:
        f"{CELL}/inference.csv",
    log:
        f"{RESULTS}/logs/measure_inference/{{model}}-{{task}}-{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/measure_inference/{{model}}-{{task}}-{{seed}}.tsv"
    conda:
        ENVIRONMENT
    params:
        finetuned=subpath(input.finetuned, parent=True),
        task=subpath(input.task, parent=True),
        cell=subpath(input.finetuned, ancestor=2),
        methods=MEASURED,
        settings=get_method_settings(MEASURED),
        texts=config["inference"]["texts"],
        passes=config["inference"]["passes"],
    shell:
        "python -m study.inference --finetuned {params.finetuned} --task-folder {params.task}"
        " --compressed {params.cell}/compressed --methods {params.methods} --settings {params.settings}"
        " --texts {params.texts} --passes {params.passes} --out {output} > {log} 2>&1"


rule check_cell:
    input:
        finetuned=f"{CELL}/finetuned/manifest.json",
        task=f"{RESULTS}/tasks/{{task}}/manifest.json",
    output:
        f"{CELL}/checks/checks.csv",
    log:
        f"{RESULTS}/logs/check_cell/{{model}}-{{task}}-{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/check_cell/{{model}}-{{task}}-{{seed}}.tsv"
    conda:
        ENVIRONMENT
    resources:
        gpu=GPU,
    params:
        finetuned=subpath(input.finetuned, parent=True),
        task=subpath(input.task, parent=True),
        settings=get_method_settings([]),
        checks=as_json(config["checks"]),
        folder=subpath(output[0], parent=True),
        sources=[baselines.source_hash(baselines.METHODS[method]) for method in ("ken", "magnitude")],
    shell:
        "python -m study.checks --finetuned {params.finetuned} --task-folder {params.task}"
        " --settings {params.settings} --checks {params.checks} --out {params.folder} > {log} 2>&1"


# Language models.


rule build_text:
    input:
        get_language_text,
    output:
        manifest=f"{RESULTS}/language/text/{{experiment}}/manifest.json",
        parts=expand(
            f"{RESULTS}/language/text/{{{{experiment}}}}/{{split}}.parquet", split=["train", "validation", "test"]
        ),
    log:
        f"{RESULTS}/logs/build_text/{{experiment}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/build_text/{{experiment}}.tsv"
    conda:
        ENVIRONMENT
    params:
        folder=subpath(output.manifest, parent=True),
        spec=lambda wildcards: as_json(LANGUAGE[wildcards.experiment]["text"]),
        corpus=lambda wildcards, input: (
            f"--corpus {input}" if LANGUAGE[wildcards.experiment]["text"]["source"] == "docstrings" else ""
        ),
    shell:
        "python -m study.text --spec {params.spec} {params.corpus} --out {params.folder} > {log} 2>&1"


rule prune_language_model:
    input:
        model=f"{RESULTS}/models/{{model}}/pretrained/manifest.json",
        text=f"{RESULTS}/language/text/pruning/manifest.json",
    output:
        expand(f"{LANGUAGE_CELL}/pruning/{{table}}", table=["perplexity.csv", "losses.parquet"], allow_missing=True),
    log:
        f"{RESULTS}/logs/prune_language_model/{{model}}-{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/prune_language_model/{{model}}-{{seed}}.tsv"
    conda:
        ENVIRONMENT
    params:
        pretrained=subpath(input.model, parent=True),
        text=subpath(input.text, parent=True),
        settings=get_language_settings("pruning"),
        folder=subpath(output[0], parent=True),
        sources=baselines.source_hash(baselines.METHODS["llm-surgeon"]),
    shell:
        "python -m study.prune_language_model --pretrained {params.pretrained} --text-folder {params.text}"
        " --model {wildcards.model} --seed {wildcards.seed} --settings {params.settings} --out {params.folder}"
        " > {log} 2>&1"


rule adapt_language_model:
    input:
        model=f"{RESULTS}/models/{{model}}/pretrained/manifest.json",
        text=f"{RESULTS}/language/text/adaptation/manifest.json",
    output:
        f"{LANGUAGE_CELL}/adapted/manifest.json",
    log:
        f"{RESULTS}/logs/adapt_language_model/{{model}}-{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/adapt_language_model/{{model}}-{{seed}}.tsv"
    conda:
        ENVIRONMENT
    params:
        pretrained=subpath(input.model, parent=True),
        text=subpath(input.text, parent=True),
        settings=as_json(
            {key: LANGUAGE["adaptation"][key] for key in ("epochs", "batch_size", "learning_rate")}
            | {"max_length": LANGUAGE["max_length"]}
        ),
        folder=subpath(output[0], parent=True),
    shell:
        "python -m study.adapt_language_model --pretrained {params.pretrained} --text-folder {params.text}"
        " --model {wildcards.model} --seed {wildcards.seed} --settings {params.settings} --out {params.folder}"
        " > {log} 2>&1"


rule compress_language_model:
    input:
        model=f"{RESULTS}/models/{{model}}/pretrained/manifest.json",
        text=f"{RESULTS}/language/text/adaptation/manifest.json",
        adapted=f"{LANGUAGE_CELL}/adapted/manifest.json",
    output:
        expand(f"{LANGUAGE_CELL}/adaptation/{{table}}", table=["perplexity.csv", "losses.parquet"], allow_missing=True),
    log:
        f"{RESULTS}/logs/compress_language_model/{{model}}-{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/compress_language_model/{{model}}-{{seed}}.tsv"
    conda:
        ENVIRONMENT
    params:
        pretrained=subpath(input.model, parent=True),
        text=subpath(input.text, parent=True),
        adapted=subpath(input.adapted, parent=True),
        methods=ADAPTATION_METHODS,
        settings=get_language_settings("adaptation"),
        folder=subpath(output[0], parent=True),
        sources=[baselines.source_hash(baselines.METHODS[method]) for method in ADAPTATION_METHODS],
    shell:
        "python -m study.compress_language_model --pretrained {params.pretrained} --adapted {params.adapted}"
        " --text-folder {params.text} --model {wildcards.model} --seed {wildcards.seed} --methods {params.methods}"
        " --settings {params.settings} --out {params.folder} > {log} 2>&1"


rule collect_perplexity:
    input:
        get_perplexity,
    output:
        f"{RESULTS}/perplexity.csv",
    log:
        f"{RESULTS}/logs/collect_perplexity.log",
    conda:
        ENVIRONMENT
    params:
        folder=subpath(output[0], parent=True),
        experiments=EXPERIMENTS,
        models=LANGUAGE_CELLS["model"],
        seeds=LANGUAGE_CELLS["seed"],
    shell:
        "python -m study.perplexity {params.folder} --experiments {params.experiments} --models {params.models}"
        " --seeds {params.seeds} > {log} 2>&1"


# Tables, figures, report.


rule collect_scores:
    input:
        get_suggestions,
        get_scores,
        get_inference,
        get_checks,
        expand(f"{CELL}/finetuned/manifest.json", **CELLS),
        get_random_init_manifests,
    output:
        expand(
            f"{RESULTS}/{{table}}.csv",
            table=["scores", "finetuning", "suggestions", "inference", "checks", "tasks", "models"],
        ),
        f"{RESULTS}/collected.json",
    log:
        f"{RESULTS}/logs/collect_scores.log",
    benchmark:
        f"{RESULTS}/benchmarks/collect_scores.tsv"
    conda:
        ENVIRONMENT
    params:
        **CELLS,
        folder=subpath(output[0], parent=True),
        methods=POST_HOC,
        trained=f"--trained {as_json(TRAINED_CELLS | {'methods': TRAINED})}" if TRAINED or MEASURED or CHECKED else "",
        measured="--measured" if MEASURED else "",
        checked="--checked" if CHECKED else "",
        random_init=f"--random-init-seeds {' '.join(map(str, RANDOM_INIT_SEEDS))}" if RANDOM_INIT_SEEDS else "",
        suggested="--suggested" if SUGGESTED else "",
    shell:
        "python -m study.collect {params.folder} --models {params.model} --tasks {params.task}"
        " --seeds {params.seed} --methods {params.methods} {params.trained} {params.measured} {params.checked}"
        " {params.random_init} {params.suggested} > {log} 2>&1"


rule record_provenance:
    input:
        f"{RESULTS}/scores.csv",
        [f"{RESULTS}/perplexity.csv" for _ in EXPERIMENTS[:1]],
    output:
        f"{RESULTS}/provenance.json",
    log:
        f"{RESULTS}/logs/record_provenance.log",
    conda:
        ENVIRONMENT
    params:
        folder=subpath(output[0], parent=True),
        config=as_json(config),
    shell:
        "python -m study.record {params.folder} --config {params.config} > {log} 2>&1"


rule describe_spread:
    input:
        get_spread_scores,
        "report/spread.py",
    output:
        f"{RESULTS}/spread.csv",
    log:
        f"{RESULTS}/logs/describe_spread.log",
    benchmark:
        f"{RESULTS}/benchmarks/describe_spread.tsv"
    conda:
        ENVIRONMENT
    params:
        files=lambda wildcards, input: [
            f"{Path(scores).parent}/draw0/{config['spread']['kept_share']}.safetensors"
            for scores in input
            if scores.endswith(".csv")
        ],
        draws=config["spread"]["draws"],
    shell:
        "python -m report.spread {params.files} --draws {params.draws} --out {output} > {log} 2>&1"


rule measure_pruning_time:
    output:
        f"{RESULTS}/timing.csv",
    log:
        f"{RESULTS}/logs/measure_pruning_time.log",
    conda:
        ENVIRONMENT
    params:
        heights=TIMED,
        length=config["timing"]["length"],
        budgets=config["timing"]["budgets"],
    shell:
        "python -m study.timing --heights {params.heights} --length {params.length} --budgets {params.budgets}"
        " --out {output} > {log} 2>&1"


rule compute_statistics:
    input:
        f"{RESULTS}/scores.csv",
        "report/statistics.py",
        "report/results.py",
    output:
        expand(f"{RESULTS}/statistics/{{table}}.csv", table=STATISTICS),
    log:
        f"{RESULTS}/logs/compute_statistics.log",
    benchmark:
        f"{RESULTS}/benchmarks/compute_statistics.tsv"
    conda:
        ENVIRONMENT
    params:
        results=subpath(input[0], parent=True),
        folder=subpath(output[0], parent=True),
    shell:
        "python -m report.statistics --results {params.results} --out {params.folder} > {log} 2>&1"


rule judge_claims:
    input:
        f"{RESULTS}/scores.csv",
        [f"{RESULTS}/spread.csv" for _ in SPREAD[:1]],
        [f"{RESULTS}/timing.csv" for _ in TIMED[:1]],
        [f"{RESULTS}/perplexity.csv" for _ in EXPERIMENTS[:1]],
        rules="config/claims.yaml",
        code=expand("report/{code}.py", code=["claims", "statistics", "results"]),
        judging=sorted(map(str, Path("report/judging").glob("*.py"))),
    output:
        report(f"{RESULTS}/claims.csv", caption="report/captions/claims.rst", category="Verdicts"),
    log:
        f"{RESULTS}/logs/judge_claims.log",
    conda:
        ENVIRONMENT
    params:
        results=subpath(input[0], parent=True),
    shell:
        "python -m report.claims --results {params.results} --rules {input.rules} --out {output} > {log} 2>&1"


rule make_tables:
    input:
        f"{RESULTS}/scores.csv",
        f"{RESULTS}/finetuning.csv",
        expand(f"{RESULTS}/{{table}}.csv", table=["inference", "suggestions", "checks", "tasks", "models", "claims"]),
        rules.compute_statistics.output,
        [
            f"{RESULTS}/{table}.csv"
            for table, measured in (("spread", SPREAD), ("timing", TIMED), ("perplexity", EXPERIMENTS))
            if measured
        ],
        expand("report/{code}.py", code=["tables", "results", "scores", "table", "style"]),
        MEASUREMENTS,
    output:
        expand(f"{RESULTS}/tables/{{table}}.{{kind}}", table=TABLES, kind=["csv", "md"]),
        f"{RESULTS}/tables/counts.json",
    log:
        f"{RESULTS}/logs/make_tables.log",
    conda:
        ENVIRONMENT
    params:
        results=subpath(input[0], parent=True),
        folder=subpath(output[0], parent=True),
    shell:
        "python -m report.tables --results {params.results} --out {params.folder} > {log} 2>&1"


rule draw_figures:
    input:
        rules.make_tables.output,
        expand("report/{code}.py", code=["figures", "drawing", "panels", "style"]),
    output:
        [
            report(f"{RESULTS}/figures/{name}.svg", caption=f"report/captions/{name}.rst", category="Figures")
            for name in ("summary", "pareto")
        ],
        expand(
            f"{RESULTS}/figures/{{figure}}.svg", figure=[name for name in FIGURES if name not in ("summary", "pareto")]
        ),
        expand(f"{RESULTS}/figures/{{figure}}.{{kind}}", figure=FIGURES, kind=["png", "pdf"]),
        expand(f"{RESULTS}/figures/model_{{model}}.{{kind}}", model=config["models"], kind=["svg", "png"]),
    log:
        f"{RESULTS}/logs/draw_figures.log",
    conda:
        ENVIRONMENT
    threads: 2
    params:
        results=subpath(input[0], ancestor=2),
        folder=subpath(output[0], parent=True),
    shell:
        "python -m report.figures --results {params.results} --out {params.folder}"
        " --processes {threads} > {log} 2>&1"


rule draw_kenviz:
    input:
        scores=get_kenviz_scores,
        finetuned=get_kenviz_finetuned,
        code=[
            "ken/viz.py",
            "ken/explorer.py",
            "ken/explorer.html",
            "report/kenviz.py",
            "report/drawing.py",
            "report/style.py",
        ],
    output:
        picture=report(f"{RESULTS}/figures/kenviz.svg", caption="report/captions/kenviz.rst", category="KENviz"),
        others=expand(f"{RESULTS}/figures/kenviz.{{kind}}", kind=["png", "pdf", "json"]),
        page=report(f"{RESULTS}/report/kenviz.html", caption="report/captions/explorer.rst", category="KENviz"),
    log:
        f"{RESULTS}/logs/draw_kenviz.log",
    conda:
        ENVIRONMENT
    params:
        subnetwork=get_kenviz_subnetwork,
        matrix=f"--matrix {shlex.quote(config['kenviz']['matrix'])}" if "matrix" in config["kenviz"] else "",
        stem=lambda wildcards, output: Path(output.picture).with_suffix(""),
        compared=get_kenviz_compared,
        finetuned=subpath(input.finetuned, parent=True),
    shell:
        "python -m report.kenviz --subnetwork {params.subnetwork} {params.matrix} --out {params.stem}"
        " --explorer {output.page} --compared {params.compared} --pretrained {params.finetuned}/initial.safetensors"
        " --finetuned {params.finetuned}/model.safetensors > {log} 2>&1"


rule write_report:
    input:
        rules.make_tables.output,
        rules.draw_figures.output,
        rules.draw_kenviz.output,
        f"{RESULTS}/provenance.json",
        expand("report/{code}.py", code=["summary", "table", "style"]),
        expand("report/page.{kind}", kind=["py", "html.j2", "css", "js"]),
    output:
        report(f"{RESULTS}/report/index.html", caption="report/captions/page.rst", category="Report"),
    log:
        f"{RESULTS}/logs/write_report.log",
    conda:
        ENVIRONMENT
    params:
        folder=subpath(output[0], ancestor=2),
    shell:
        "python -m report.page --results {params.folder} --out {output} > {log} 2>&1"


rule write_publication:
    input:
        rules.make_tables.output,
        published="config/published.yaml",
        code=expand("report/{code}.py", code=["publication", "table", "scores", "style"]),
    output:
        expand(f"{RESULTS}/publication/{{table}}.{{kind}}", table=PUBLICATION, kind=["tex", "md"]),
    log:
        f"{RESULTS}/logs/write_publication.log",
    conda:
        ENVIRONMENT
    params:
        results=subpath(input[0], ancestor=2),
        folder=subpath(output[0], parent=True),
    shell:
        "python -m report.publication --results {params.results} --published {input.published}"
        " --out {params.folder} > {log} 2>&1"


rule write_manifest:
    input:
        rules.write_report.output,
        rules.write_publication.output,
    output:
        f"{RESULTS}/manifest.json",
    log:
        f"{RESULTS}/logs/write_manifest.log",
    conda:
        ENVIRONMENT
    params:
        folder=subpath(output[0], parent=True),
    shell:
        "python -m study.manifest {params.folder} > {log} 2>&1"


rule print_report:
    input:
        f"{RESULTS}/report/index.html",
        "report/pdf.py",
    output:
        f"{RESULTS}/report/report.pdf",
    log:
        f"{RESULTS}/logs/print_report.log",
    conda:
        ENVIRONMENT
    params:
        results=subpath(input[0], ancestor=2),
    shell:
        "python -m report.pdf --results {params.results} --out {output} > {log} 2>&1"


onstart:
    try:
        hold_study(config["study"])
    except UserError as error:
        sys.exit(f"error: {error}")


onsuccess:
    report = Path(f"{RESULTS}/report/index.html")
    if report.exists():
        print(f"report: {report.resolve()}")
