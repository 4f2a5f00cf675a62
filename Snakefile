"""The whole study as one DAG: text -> tasks and models -> fine-tuned cells -> compressed cells -> tables -> report.

A cell is a model, a task and a seed. Every rule runs one step, `python -m study.<step>` or `python -m report.<step>`.
The log of a job begins with this command. A rule reruns when its inputs, its settings or the code of its step change.
"""

import sys

sys.path.insert(0, workflow.basedir)

from ken.errors import UserError
from study.definition.paths import SPLITS, Paths
from study.planning.rules import Rules, as_json, logged, needs_gpu, prepare_study
from study.running import device
from study.running.code import code_hash
from study.running.progress import benchmarked_seconds, show_progress

if not workflow.overwrite_configfiles:

    configfile: "config/mini.yaml"


try:
    STUDY = prepare_study(config, workflow.dryrun, workflow.configfiles, workflow.config_settings.config)
    GPU = min(1, len(device.gpus()))  # per job; all jobs are on one GPU unless --resources gpu=... allows more
    SHARING = device.jobs_per_gpu()
except UserError as error:
    sys.exit(f"error: {error}")

PATHS = Paths(f"results/{STUDY.name}")
RULES, RESULTS = Rules(STUDY, PATHS), PATHS.results
CELL = ("{model}", "{task}", "{seed}")
ENVIRONMENT = "../envs/environment.yaml"

if GPU and "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", SHARING)

show_progress(workflow, benchmarked_seconds(PATHS.benchmarks), STUDY.config)


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
        # All results and not only the manifest, so that missing files of a finished study are made again.
        RULES.results(),
        rules.compute_statistics.output,
        rules.make_tables.output,
        rules.draw_figures.output,
        rules.draw_kenviz.output,
        rules.write_report.output,
        rules.write_publication.output,
        rules.write_manifest.output,


onstart:
    try:
        RULES.begin_run(needs_gpu(workflow))
    except UserError as error:
        sys.exit(f"error: {error}")


onsuccess:
    page = PATHS.report("report", "index.html")
    if str(page) in {str(output) for job in workflow.dag.jobs for output in job.output}:  # else it may be stale
        print(f"report: {page.resolve()}")
