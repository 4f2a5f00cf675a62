"""The whole study as one DAG: text -> tasks and models -> fine-tuned cells -> compressed cells -> tables -> report.

A cell is a model, a task and a seed. Every rule runs one step, `python -m study.<step>` or `python -m report.<step>`, and
the log of a job begins with that very command. What a rule depends on, `study.planning.rules` says.
"""

import sys
from pathlib import Path

sys.path.insert(0, workflow.basedir)

import baselines
from study.definition import config as study_config
from study.definition.paths import SPLITS, Paths
from study.definition.study import Study
from study.planning.rules import Rules, as_json, logged
from study.running import device, files
from study.running.code import code_hash
from ken.errors import UserError
from study.running.progress import benchmarked_seconds, show_progress
from study.running.workflow import hold_study, prepare_environment

if not workflow.overwrite_configfiles:

    configfile: "config/mini.yaml"


try:
    # study.rebuild runs the rules of the report only, for which data and models need not be there.
    STUDY = Study(study_config.load(config, baselines.METHODS, sources=not config.pop("report_only", False)))
    PATHS = Paths(f"results/{STUDY.name}")
    if not workflow.dryrun:
        files.check_writable(PATHS.results)
    prepare_environment(STUDY.config["device"], STUDY.config["finetuning"]["checkpoint_minutes"])
    GPU = min(1, len(device.gpus()))  # of a job; the pool of all jobs is one unless --resources gpu=... says more
except UserError as error:
    sys.exit(f"error: {error}")

RULES = Rules(STUDY, PATHS)
RESULTS = PATHS.results
CELL = ("{model}", "{task}", "{seed}")
ENVIRONMENT = "../envs/environment.yaml"

if GPU and "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", 1)

show_progress(workflow, benchmarked_seconds(PATHS.benchmarks))


wildcard_constraints:
    model="[a-z0-9][a-z0-9._-]*",
    task="[a-z0-9][a-z0-9._-]*",
    method="[a-z0-9][a-z0-9._-]*",
    seed=r"\d+",
    experiment="pruning|adaptation",


include: "rules/data.smk"
include: "rules/models.smk"
include: "rules/cells.smk"
include: "rules/language.smk"
include: "rules/evidence.smk"
include: "rules/report.smk"


rule all:
    default_target: True
    input:
        # Everything, not the manifest alone: what is missing from a finished study is made again.
        RULES.results(),
        rules.compute_statistics.output,
        rules.make_tables.output,
        rules.draw_figures.output,
        rules.write_publication.output,
        rules.write_manifest.output,


onstart:
    try:
        hold_study(STUDY.name)
        STUDY.write(RESULTS)
    except UserError as error:
        sys.exit(f"error: {error}")


onsuccess:
    page = PATHS.report("report", "index.html")
    if page.exists():
        print(f"report: {page.resolve()}")
