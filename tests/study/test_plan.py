"""The plan compared with the jobs of a dry run, the files of a compressed cell and torch's operation counts."""

import ast
import base64
import dataclasses
import functools
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from snakemake.cli import parse_set_resources
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig, DebertaConfig

from baselines import METHODS, estimates
from ken.errors import UserError
from study import compress, plan, slurm
from study.cells.finetuned_cell import FinetunedCell
from study.planning import comparison, cost, jobs, savings, schedule, sizes, tables
from study.running import device, files
from study.running.benchmarks import whole_processor_time

ROOT = Path(__file__).parents[2]
TEST = ROOT / "config" / "test.yaml"
SLURM = ROOT / "profiles" / "slurm"
PLAN = jobs.read_plan()
# Body parameters as published by the authors, without a classifier.
PUBLISHED = {
    "bert": 109.5e6, "distilbert": 66.4e6, "deberta": 138.6e6, "ernie": 109.5e6, "electra": 13.5e6,
    "bloom-560m": 559.2e6, "bloom-1b7": 1722.4e6,
}  # fmt: skip


BERT = jobs.Job("finetune_model", {"model": "bert", "task": "sst2", "seed": "0"})


@pytest.fixture(autouse=True)
def no_override(monkeypatch):
    """How many jobs share a GPU is read from the configs."""
    monkeypatch.delenv(device.JOBS, raising=False)


@pytest.fixture(scope="module")
def paper():
    return jobs.read_study(ROOT / "config" / "paper.yaml", PLAN)


@pytest.fixture(scope="module")
def small():
    return jobs.read_study(TEST, PLAN)


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory):
    """Output of a dry run of the whole test study, which includes Snakemake's job counts."""
    command = [sys.executable, "-m", "snakemake", "--configfile", str(TEST), "--dry-run", "--forceall", "--cores", "1"]
    command += ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(ROOT), "--workflow-profile", "none"]
    return subprocess.run([*command, "--nolock"], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_jobs_match_the_counts_of_snakemake(dry_run):
    table = re.search(r"^job +count\n-+ +-+\n(.*?)^total", dry_run, re.S | re.M)[1]
    counted = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table, re.M)}
    del counted["all"]
    listed = jobs.parse_jobs(dry_run)
    assert {rule: sum(job.rule == rule for job in listed) for rule in counted} == counted
    assert len(listed) == sum(counted.values())
    assert len({job.number for job in listed}) == len(listed)
    finetuned = {tuple(job.wildcards.values()): job.number for job in listed if job.rule == "finetune_model"}
    compressed = [job for job in listed if job.rule == "compress_model"]
    for job in compressed:
        assert finetuned[tuple(job.wildcards.values())] in job.after and job.priority == 1
    (collect,) = (job for job in listed if job.rule == "collect_scores")
    assert {job.number for job in compressed} < set(collect.after) and collect.priority == 0
    cells = {tuple(job.wildcards.values()) for job in compressed}
    seeds = map(str, yaml.safe_load(TEST.read_text())["seeds"])
    assert cells == {(model, "library3", seed) for seed in seeds for model in ("bert", "bloom-small")}


@pytest.mark.slow
def test_errors_of_snakemake_are_passed_on(tmp_path):
    config = tmp_path / "bad.yaml"
    config.write_text(TEST.read_text().replace("seeds:", "sedes:", 1))
    with pytest.raises(UserError, match=r'sedes is not known here\. Did you mean "seeds"'):
        jobs.list_jobs(config)


@pytest.mark.slow
def test_a_study_is_planned_while_it_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("checkpoints", "config"):
        Path(folder).symlink_to(ROOT / folder)
    half_written = Path("results/test/cells/bert/library3/seed0/finetuned/manifest.json")
    files.write_json(half_written, {})
    marker = base64.b64encode(str(half_written).encode()).decode()
    files.write_json(Path(".snakemake/incomplete") / marker, "")
    assert "finetune_model" in {job.rule for job in jobs.list_jobs(TEST)}


@pytest.mark.parametrize("model", PUBLISHED)
def test_models_of_the_paper_have_their_published_size(paper, model):
    size = paper.models[model]
    assert size.parameters - size.head == pytest.approx(PUBLISHED[model], rel=0.005)


def test_shapes_match_the_checkpoint(checkpoints, finetuned_cells):
    for model, folder in finetuned_cells.items():
        config = AutoConfig.from_pretrained(checkpoints[model], num_labels=2)
        size = sizes.model_size(config, trained_here=True)
        manifest = json.loads((folder / "manifest.json").read_text())
        loaded = load_file(folder / "model.safetensors")
        body = {name: tuple(tensor.shape) for name, tensor in loaded.items() if name not in manifest["head"]}
        assert size.body == body, model
        assert size.head == sum(loaded[name].numel() for name in manifest["head"]), model


@pytest.mark.parametrize("model", ["bert", "electra", "bloom-560m"])
def test_operations_match_the_flop_counter_of_torch(checkpoints, model):
    config = AutoConfig.from_pretrained(checkpoints[model], num_labels=2, attn_implementation="eager")
    network = AutoModelForSequenceClassification.from_config(config).eval()
    size, rows, tokens = sizes.model_size(config), 3, 16
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(input_ids=torch.full((rows, tokens), 5), attention_mask=torch.ones(rows, tokens, dtype=torch.int64))
    estimate = cost.evaluation(size, rows, tokens, {"batch_size": rows}).flops
    assert estimate == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_a_training_step_takes_three_passes(checkpoints):
    config = AutoConfig.from_pretrained(checkpoints["bert"], num_labels=2, attn_implementation="eager")
    network = AutoModelForSequenceClassification.from_config(config)
    size, task = sizes.model_size(config), sizes.TaskSize(3, 0, 3, 16, 2)
    ids = torch.full((3, 16), 5)
    with FlopCounterMode(display=False) as counter:
        network(
            input_ids=ids, attention_mask=torch.ones_like(ids), labels=torch.zeros(3, dtype=torch.int64)
        ).loss.backward()
    estimate = cost.training(size, task, {"epochs": 2, "batch_size": 3})
    assert estimate.low_flops == pytest.approx(2 * counter.get_total_flops(), rel=0.1)
    assert estimate.steps == 2 * size.layers and estimate.passes == 0
    assert estimate.activations == 2 * 3 * cost.activation_bytes(size, 3, 16, half=False)
    assert estimate.moved == 2 * 28 * sum(parameter.numel() for parameter in network.parameters())


def test_activation_memory_is_close_to_what_torch_saves():
    config = AutoConfig.for_model("bert", hidden_size=256, num_hidden_layers=2, num_attention_heads=4,
                                  intermediate_size=1024, vocab_size=64, attn_implementation="eager")  # fmt: skip
    network, size = AutoModelForSequenceClassification.from_config(config), sizes.model_size(config)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    saved = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in parameters:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    ids = torch.full((4, 64), 5)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = network(input_ids=ids, labels=torch.zeros(4, dtype=torch.int64)).loss
    assert loss.requires_grad
    assert sum(saved.values()) == pytest.approx(cost.activation_bytes(size, 4, 64, half=False), rel=0.35)


def test_disk_estimates_match_the_files_of_a_cell(tmp_path, checkpoints, finetuned_cells, task_folder):
    """Every post-hoc method and every kind of budget, on a model large enough to outweigh the file headers."""
    methods = [
        "full",
        "none",
        "ken",
        "ken-rescaled",
        "random",
        "delta-global",
        "bitdelta",
        "ken-grid-layers",
        "svd",
        "svd-allocated",
        "compeft",
        "bitdelta-rows",
        "delta-come",
        "lora",
        "flop",
    ]
    settings = {"kept_shares": [0.05, 0.5, 16], "draws": 1, "batch_size": 32, "max_length": 24, "methods": {}}
    settings["methods"] = {
        "lora": {"budgets": [2], "rate_factors": [1]},
        "flop": {"budgets": [0.5], "rate_factors": [1]},
    }
    cell = FinetunedCell(finetuned_cells["bert"], task_folder, settings)
    size = sizes.model_size(AutoConfig.from_pretrained(checkpoints["bert"], num_labels=2), trained_here=True)
    compress.compress(cell, methods, tmp_path)
    compared = 0
    for path in tmp_path.rglob("*.safetensors"):
        method, budget = path.parts[-3], json.loads(path.with_suffix(".json").read_text())["row"]["budget"]
        estimate = METHODS[method].stored_bytes(budget, size)
        # The header with tensor names makes up the difference; it matters only for such small models.
        assert estimate == pytest.approx(path.stat().st_size, rel=0.05, abs=12_000), (method, budget)
        compared += 1
    assert compared == 2 + 5 * 3 + 1 + 1 + 1 + (3 + 3 + 3 + 1 + 3)


def test_choice_bits_is_log2_of_the_number_of_choices():
    for n, k in ((10, 3), (64, 64), (200, 17)):
        assert estimates.choice_bits(n, k) == pytest.approx(math.log2(math.comb(n, k)), abs=1e-9)
    assert estimates.kept_bytes({"w": (5, 10)}, 3) == pytest.approx(1.02 * 5 * (3 * 4 + math.log2(120) / 8))


def test_the_plan_names_no_method():
    names = METHODS.keys() - {"none"}  # "none" also stands for no GPU and no profile
    for path in [*(ROOT / "study" / "planning").glob("*.py"), ROOT / "study" / "plan.py", ROOT / "study" / "slurm.py"]:
        nodes = ast.walk(ast.parse(path.read_text()))
        assert not names & {node.value for node in nodes if isinstance(node, ast.Constant)}, path


def test_work_grows_with_seeds_draws_and_shares(small):
    job, random = {"model": "bert", "task": "library3", "seed": "0"}, METHODS["random"]
    once = cost.work_of(small, "compress_model", job)
    more = sizes.SizedStudy(small.config | {"draws": 4}, small.models, small.tasks)
    grown = cost.work_of(more, "compress_model", job)
    entries = sum(math.prod(shape) for shape in small.models["bert"].body.values())
    assert grown.ranked - once.ranked == 2 * 2 * entries, "two more draws of random and of random-rescaled"
    assert grown.coded - once.coded == 2 * 2 * 2 * entries, "at two shares each"
    assert grown.disk > once.disk and grown.flops > once.flops
    scored = sizes.SizedStudy(small.config | {"scores_only": ["random"]}, small.models, small.tasks)
    without = cost.work_of(scored, "compress_model", job)
    files = small.draws(random) * sum(
        random.stored_bytes(budget, small.models["bert"]) for budget in small.budgets(random, "library3")
    )
    assert once.disk - without.disk == pytest.approx(files) and without.coded == once.coded


def test_seconds_are_work_divided_by_speed():
    machine = {"tflops": 2.0, "utilisation": 0.5, "gb_per_s": 100, "layer_ms": 2, "step_ms": 5}
    core = {"start_s": 3, "ranked": 5, "grid": 1, "chosen": 2, "coded": 10, "items": 4, "file_s": 0.5}
    core |= {"write_gb_per_s": 2, "read_gb_per_s": 4}
    work = cost.Work(flops=4e12, low_flops=6e12, passes=500, steps=400, activations=6e9, moved=2e11, ranked=5e6,
                     chosen=3e6, gridded=5e5, coded=3e7, files=4, written=1e10, read=1.2e10, items=8)  # fmt: skip
    kept = 1 + 2 + 3 + 2 + 5 + 3 + 2  # ranked, chosen and gridded, coded, files, written, read, items
    cpu = machine | {"activation_gb_per_s": 3}
    assert cost.seconds_of(work, cpu, core) == pytest.approx(3 + (4 + 6 + 2) + (1 + 2) + 2 + kept)
    in_bfloat16 = cost.Work(bfloat16_flops=6e12)
    assert cost.seconds_of(in_bfloat16, cpu, core) == pytest.approx(3 + 6), "not measured: as fast as float32"
    assert cost.seconds_of(in_bfloat16, cpu | {"bfloat16_tflops": 4}, core) == pytest.approx(3 + 1.5)
    gpu = machine | {"memory_gib": 80, "float32_tflops": 0.5, "ranked": 10}
    hidden = "launch overhead is hidden"
    assert cost.seconds_of(work, gpu, core) == pytest.approx(3 + (8 + 6 + 2) - 0.5 + kept), hidden
    slow = gpu | {"layer_ms": 40, "step_ms": 50}
    assert cost.seconds_of(work, slow, core) == pytest.approx(3 + 20 + 20 - 0.5 + kept), "computation is hidden"
    assert cost.seconds_of(work, slow | {"grid": 5}, core) == pytest.approx(3 + 20 + 20 - 0.5 + kept - 0.4)
    assert cost.gpu_seconds(work, slow | {"grid": 5}) == pytest.approx(8 + 6 + 2 + 0.5 + 0.1)


def test_an_evaluation_honours_batch_precision_and_share(small):
    size, task = small.models["bert"], small.tasks["library3"]
    whole = cost.evaluation_on_test(small, size, task)
    assert whole == cost.evaluation(size, task.test, task.tokens, small.config["evaluation"])
    half = cost.evaluation_on_test(dataclasses.replace(small, scored_share=0.5), size, task)
    assert half.flops == pytest.approx(whole.flops / 2)
    assert half.evaluation_passes == size.layers * math.ceil(task.test / 2 / 32)
    config = small.config | {"evaluation": small.config["evaluation"] | {"precision": "bfloat16"}}
    narrow, sampled = dataclasses.replace(small, config=config), dataclasses.replace(task, scored=10)
    few = cost.evaluation_on_test(narrow, size, sampled)
    assert few.flops == 0 and few.bfloat16_flops == pytest.approx(whole.flops * 10 / task.test)
    assert cost.evaluation_on_test(narrow, size, sampled, control=True).bfloat16_flops == pytest.approx(whole.flops)


def test_models_without_bfloat16_are_planned_in_float32():
    model_sizes = [sizes.model_size(config) for config in (BertConfig(), DebertaConfig(relative_attention=True))]
    task = sizes.TaskSize(train=320, validation=0, test=0, tokens=100, classes=2)
    settings = {"epochs": 1, "batch_size": 32, "max_length": 128}
    works = [cost.training(size, task, settings) for size in model_sizes]
    assert (works[0].flops, works[1].low_flops) == (0, 0) and works[0].low_flops > 0 < works[1].flops
    explicit = cost.training(model_sizes[0], task, settings | {"precision": "bfloat16"})
    assert explicit.low_flops == 0 and explicit.bfloat16_flops == works[0].low_flops, "on a CPU too"
    full = cost.training(model_sizes[0], task, settings | {"precision": "float32"})
    assert full.low_flops == 0 and full.flops == works[0].low_flops
    memory = [[cost.training_gib(size, settings, half) for half in (False, True)] for size in model_sizes]
    assert memory[0][0] > memory[0][1] and memory[1][0] == memory[1][1]


def test_cpu_rules_are_planned_with_the_speed_and_memory_of_the_cpu(paper):
    axes = {"model": "bloom-560m", "task": "sst2", "seed": "0"}
    listed = [jobs.Job(rule, axes) for rule in ("measure_inference", "finetune_model")]
    core, gpu = (jobs.with_costs(paper, listed, PLAN["machines"][name], PLAN) for name in ("cpu", "h100"))
    assert core[0].seconds == gpu[0].seconds > 300 and not gpu[0].on_gpu
    assert core[1].seconds > 5 * gpu[1].seconds and gpu[1].on_gpu
    at_once = (
        1 + 1 + 1 + 3 + 3
    )  # full, ken, bitdelta, ranks of LoRA, sizes of FLOP; an adapter of LoRA may be unmerged too
    assert gpu[0].gib > (3 + at_once) * 4 * paper.models["bloom-560m"].parameters / 2**30


def test_the_plan_of_language_models_names_rules_without_an_estimate():
    study = jobs.read_study(ROOT / "config" / "surgeon.yaml", PLAN)
    listed = [
        jobs.Job("import_model", {"model": "bloom-1b7"}),
        jobs.Job("compress_language_model", {"model": "bloom-1b7"}),
    ]
    text = tables.plan_text(
        study, jobs.with_costs(study, listed, PLAN["machines"]["cpu"], PLAN), "cpu", PLAN, gpus=1, cores=2
    )
    assert "on disk, more than" in text
    assert "Not estimated, and counted as if they did nothing: compress_language_model." in text


def test_pruning_a_language_model_is_priced_by_methods_shots_and_size():
    study = jobs.read_study(ROOT / "config" / "surgeon.yaml", PLAN)
    job = jobs.Job("prune_language_model", {"model": "bloom-1b7", "seed": "0"})

    def priced(model: str = "bloom-1b7", **settings) -> jobs.Job:
        section = study.config["language_modelling"]
        changed = section | {"pruning": section["pruning"] | settings}
        sized = sizes.SizedStudy(study.config | {"language_modelling": changed}, study.models, study.tasks)
        listed = [jobs.Job(job.rule, job.wildcards | {"model": model})]
        return jobs.with_costs(sized, listed, PLAN["machines"]["cpu"], PLAN)[0]

    whole = priced()
    assert whole.seconds > priced(shots=[1]).seconds > priced(shots=[1], methods=["magnitude"]).seconds > 0
    assert whole.seconds > priced("bloom-560m").seconds and whole.gib > priced("bloom-560m").gib
    assert whole.disk == pytest.approx(2 * priced(shots=[1]).disk, rel=1e-6)


def test_large_models_leave_less_of_a_gpu_to_other_jobs(paper):
    def parts(rule: str, model: str, study=paper, machine: str = "h100") -> int:
        return cost.parts_of_gpu(study, rule, {"model": model}, PLAN["machines"][machine])

    assert paper.config["jobs_per_gpu"] == 4
    assert parts("compress_model", "bert") == parts("train_method", "bloom-560m") == 2
    assert parts("compress_model", "bloom-1b7") == parts("finetune_model", "bloom-1b7") == 4
    assert 4 < parts("train_method", "bloom-1b7") < 8
    assert parts("finetune_model", "bloom-560m", machine="l4") == 5 and parts("check_cell", "bert") == 2
    assert parts("tune_model", "bert") == 8, "not one of the rules whose jobs share"
    alone = dataclasses.replace(paper, config=paper.config | {"jobs_per_gpu": 1})
    assert parts("compress_model", "bert", alone) == 8
    (planned,) = jobs.with_costs(paper, [BERT], PLAN["machines"]["h100"], PLAN)
    assert planned.parts == 2 and 0 < planned.computed < planned.seconds


def test_the_environment_overrides_how_many_jobs_share_a_gpu(paper, monkeypatch):
    def planned() -> tuple[int, str]:
        (job,) = jobs.with_costs(paper, [BERT], PLAN["machines"]["h100"], PLAN)
        return job.parts, tables.plan_text(paper, [job], "h100", PLAN, gpus=1, cores=16)

    parts, text = planned()
    assert parts == 2 and "up to 4 jobs at once" in text
    monkeypatch.setenv(device.JOBS, "2")
    parts, text = planned()
    assert parts == 4 and "up to 2 jobs at once" in text
    monkeypatch.setenv(device.JOBS, "1")
    parts, text = planned()
    assert parts == 8 and "jobs at once" not in text
    monkeypatch.setenv(device.JOBS, "9")
    with pytest.raises(UserError, match="expected a number from 1 to 8"):
        planned()


def test_models_that_are_too_large_for_a_gpu_are_named_and_not_counted(paper):
    card = PLAN["machines"]["l4"]
    large = jobs.Job("finetune_model", BERT.wildcards | {"model": "bloom-1b7"})
    beside = [jobs.Job("measure_inference", large.wildcards), jobs.Job("describe_updates", {})]
    listed = [BERT, large, *beside]
    assert jobs.too_large(paper, listed, card) == ["bloom-1b7"]
    assert jobs.too_large(paper, listed, PLAN["machines"]["a100"]) == []
    assert jobs.too_large(paper, listed, PLAN["machines"]["cpu"]) == []
    smaller, kept = jobs.without_models(paper, listed, ["bloom-1b7"])
    assert kept == [BERT, beside[1]]
    whole, updates = (jobs.with_costs(s, [beside[1]], card, PLAN)[0].seconds for s in (paper, smaller))
    assert updates < whole / 2, "the large model has most of the entries"
    text = tables.plan_text(paper, jobs.with_costs(paper, listed, card, PLAN), "l4", PLAN, gpus=1, cores=8)
    assert text.startswith("paper without bloom-1b7, too large for 24 GiB: 2 jobs,")
    without = "paper without bloom-1b7, too large for 24 GiB"
    assert tables.plan_text(paper, [large], "l4", PLAN, 1, 8) == f"{without}: nothing to do."
    only, _ = jobs.without_models(paper, [], set(paper.models) - {"bloom-1b7"})
    text_of_one = tables.plan_text(only, [large, *beside], "l4", PLAN, 1, 8)
    assert text_of_one == f"{without}: no model is left. Name a machine with more memory."
    assert re.search(r"NVIDIA L4 +bloom-1b7 +8 +36 *$", tables.gpu_table(only, [large], PLAN), re.M)
    without = tables.plan_text(smaller, jobs.with_costs(smaller, kept, card, PLAN), "l4", PLAN, gpus=1, cores=8)
    assert text.splitlines()[0].split(": ", 1)[1] == without.splitlines()[0].split(": ", 1)[1]
    rows = {line[:12].strip(): line for line in tables.gpu_table(paper, listed, PLAN).splitlines()}
    assert "bloom-1b7" in rows["NVIDIA L4"] and "none" in rows["NVIDIA A100"] and "bloom-1b7" not in rows["NVIDIA H100"]


def test_a_model_fits_a_gpu_by_what_its_own_jobs_need():
    study = jobs.read_study(ROOT / "config" / "surgeon.yaml", PLAN)
    job, card = jobs.Job("prune_language_model", {"model": "bloom-1b7", "seed": "0"}), {"memory_gib": 24}
    needed = cost.memory_gib(study, job.rule, job.wildcards, half=True)
    assert jobs.too_large(study, [job], card | {"memory_gib": needed}) == []
    assert jobs.too_large(study, [job], card | {"memory_gib": needed - 0.1}) == ["bloom-1b7"]


def test_speeds_that_an_older_version_measured_are_refused():
    record = files.read_json(ROOT / PLAN["measured"])
    del record["core"]["chosen"]
    with pytest.raises(UserError, match="lack 'chosen': measure the machine again"):
        jobs.with_measured(PLAN, record)


def write_times(folder: Path, jobs_taken: dict[str, tuple[float, float]]) -> None:
    """Benchmark files as Snakemake's, with seconds and processor seconds of each job."""
    for name, (seconds, processor) in jobs_taken.items():
        path = folder / "benchmarks" / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\tio_in\tcpu_time\n{seconds}\t0\t{processor}\n")


def test_plans_are_compared_with_a_run_job_by_job(tmp_path):
    write_times(tmp_path, {"a/one/0": (8, 4), "a/two/0": (10, 10), "gone": (7, 7)})
    listed = [jobs.Job("a", {"model": model, "seed": "0"}, seconds) for model, seconds in (("one", 5), ("two", 8))]
    listed += [jobs.Job("b", {}, 5)]
    compared = comparison.compare_jobs(listed, tmp_path)
    assert [(one.axes, one.planned, one.taken) for one in compared] == [(("one", "0"), 5, 4), (("two", "0"), 8, 10)]
    assert comparison.total_error(compared) == pytest.approx(13 / 14 - 1)
    assert comparison.median_error(compared) == pytest.approx((0.25 + 0.2) / 2)
    assert [one.axes[0] for one in comparison.worst(compared, 1)] == ["two"]
    *_, rule, every = tables.comparison_table(compared).splitlines()
    assert rule.split() == ["a", "2", "13", "14", "-7%", "22%"] and every.split()[3:] == rule.split()[1:]
    assert tables.worst_table(compared).splitlines()[2].split() == ["a", "two", "0", "8", "10", "-20%"]
    on_gpu = [dataclasses.replace(job, on_gpu=True) for job in listed]
    assert [one.taken for one in comparison.compare_jobs(on_gpu, tmp_path)] == [8, 10], (
        "seconds and not the processor's"
    )


def test_a_committed_run_is_compared_rule_by_rule(tmp_path):
    files.write_json(tmp_path / "provenance.json", {"seconds": {"a": 10, "c": 3}})
    listed = [jobs.Job("a", {"seed": seed}, 6) for seed in "01"]
    (rule,) = comparison.compare_jobs(listed, tmp_path)
    assert (rule.planned, rule.taken, rule.jobs) == (12, 10, 2) and comparison.median_error([rule]) is None
    assert "job by job" not in plan.against_text(listed, tmp_path) and "+20%" in plan.against_text(listed, tmp_path)
    with pytest.raises(UserError, match="holds no times of jobs"):
        comparison.compare_jobs([jobs.Job("b", {}, 1)], tmp_path)


@pytest.mark.parametrize(("sampled", "seconds", "whole"), [(6, 12, 6), (8, 40, 20), (23, 60, 30), (1, 0.3, 1)])
def test_processor_time_after_the_last_sample_is_added(sampled, seconds, whole):
    """Snakemake's last sample of a job of 40 s is at 16 s, that of a job of 60 s at 46 s."""
    assert whole_processor_time(sampled, seconds) == pytest.approx(whole)


def test_savings_are_those_of_a_study_planned_anew(small, dry_run):
    config = small.config | {"seeds": [0, 1, 2]}
    study = dataclasses.replace(small, config=config)
    listed = [dataclasses.replace(job, wildcards=job.wildcards | {"seed": seed})
              for job in jobs.parse_jobs(dry_run) for seed in "012" if "seed" in job.wildcards]  # fmt: skip
    costed = functools.partial(jobs.with_costs, machine=PLAN["machines"]["cpu"], plan=PLAN)
    saved = savings.saved_seconds(study, listed, costed)
    total = sum(job.seconds for job in costed(study, listed))
    last_seed = sum(job.seconds for job in costed(study, [job for job in listed if job.wildcards["seed"] == "2"]))
    assert saved["seeds"] == pytest.approx(last_seed), "two seeds of three are kept"
    fewer = config | {"kept_shares": [0.05]}
    assert all(len(study.budgets(method, "library3")) < 3 for method in study.post_hoc()), "half of them is one"
    expected = total - sum(job.seconds for job in costed(dataclasses.replace(study, config=fewer), listed))
    assert saved["budgets of the methods"] == pytest.approx(expected) and expected > 0
    assert 0 < saved["test texts"] < total / 2
    text = tables.savings_table(study, costed(study, listed), PLAN["machines"]["cpu"], PLAN)
    assert f"{last_seed / total:.0%}" in text


def test_the_plan_names_the_jobs_that_take_longest():
    listed = [jobs.Job("a", {"model": "m", "task": "t", "seed": seed}, 30) for seed in "01"] + [jobs.Job("b", {}, 40)]
    _, _, first, second = tables.dominant_table(listed).splitlines()
    assert first.split() == ["a", "m", "t", "1", "min", "0", "s", "60%"] and second.split()[-1] == "40%"


def test_the_plan_lists_every_rule_and_model(small, dry_run):
    listed = jobs.with_costs(small, jobs.parse_jobs(dry_run), PLAN["machines"]["a100"], PLAN)
    text = tables.plan_text(small, listed, "a100", PLAN, gpus=2, cores=8)
    for word in ("finetune_model", "collect_scores", "bloom-small", "A100", "peak is assumed"):
        assert word in text
    assert tables.plan_text(small, [], "a100", PLAN, 1, 1) == "test: nothing to do."


def test_slurm_resources_cover_the_plan(paper):
    axes = {"task": "sst2", "seed": "0"}
    listed = [jobs.Job("finetune_model", axes | {"model": model}) for model in paper.models] + [
        jobs.Job("make_tables", {})
    ]
    listed = jobs.with_costs(paper, listed, PLAN["machines"]["a100"], PLAN)
    resources = slurm.resources(listed, with_gpu=True)
    assert resources["make_tables"] == {"mem_mb": "attempt * 3000", "runtime": "attempt * 10", "gpu": 0}
    assert resources["finetune_model"]["gpu"] == 1
    for job in listed[:-1]:
        names = {"attempt": 2, "wildcards": type("Wildcards", (), job.wildcards)}
        assert eval(resources["finetune_model"]["mem_mb"], names) >= 2 * 1.25 * job.gib * 1073
        assert eval(resources["finetune_model"]["runtime"], names) * 60 >= 2 * 2 * job.seconds
    unknown = {"attempt": 1, "wildcards": type("Wildcards", (), {"model": "another"})}
    known = {"attempt": 1, "wildcards": type("Wildcards", (), {"model": "bloom-1b7"})}
    assert eval(resources["finetune_model"]["mem_mb"], unknown) == eval(resources["finetune_model"]["mem_mb"], known)


@pytest.mark.slow
def test_the_committed_slurm_profile_is_that_of_the_plan(tmp_path):
    """After a change of the cost model, its first line of resources says how to write it again."""
    command = ["-m", "study.slurm", "--config", "config/paper.yaml", "--machine", "a100", "--out", str(tmp_path)]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
    written, committed = (yaml.safe_load((folder / slurm.PROFILE.name).read_text()) for folder in (tmp_path, SLURM))
    assert written == committed


@pytest.mark.slow
def test_the_study_of_the_paper_takes_the_hours_in_the_documents(paper):
    listed = jobs.list_jobs(ROOT / "config" / "paper.yaml", everything=True)
    planned = {}
    for line in tables.gpu_table(paper, listed, PLAN).splitlines()[2:]:
        gpu, large, cores, _, *hours = re.split(r" {2,}", line)
        planned[gpu] = [large, cores, *hours]
    lines = (ROOT / "docs" / "cluster.md").read_text().splitlines()
    rows = [re.split(r" *\| *", line.strip("| ")) for line in lines]
    written = {row[0]: row[1:] for row in rows if row[0] in planned}
    assert len(written) == 4 and all(planned[gpu] == row for gpu, row in written.items())
    most = {gpu: float(row[-1]) for gpu, row in written.items()}
    assert most["NVIDIA H100 SXM"] <= 24 and most["NVIDIA A100 SXM 80 GB"] <= 40 and most["NVIDIA L4"] <= 80
    costed = jobs.with_costs(paper, listed, PLAN["machines"]["h100"], PLAN)
    seconds = schedule.run_seconds(costed, gpus=1, cores=16, sharing=4)
    disk = sum(job.disk for job in costed) / 1e9
    low, high = (round(time(seconds) / 3600) for time in (min, max))
    hours = f"{low} to {high}" if low < high else low
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert f"{disk:.0f} GB of disk and {hours} hours of one H100 with 16 cores" in readme and disk <= 200


@pytest.mark.slow
def test_the_small_study_of_the_paper_takes_a_night_on_a_card_of_12_gb():
    study = jobs.read_study(ROOT / "config" / "paper-small.yaml", PLAN)
    assert len(study.models) == 5 and len(study.tasks) == 4
    card = PLAN["machines"]["rtx3060"]
    planned = jobs.with_costs(study, jobs.list_jobs(ROOT / "config" / "paper-small.yaml", True), card, PLAN)
    assert max(schedule.run_seconds(planned, gpus=1, cores=2, sharing=4)) < 10 * 3600
    assert max(job.gib for job in planned if job.on_gpu) < card["memory_gib"] == 12


def test_gpu_rules_match_the_snakefile():
    text = "".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
    rules = re.split(r"^rule (\w+):", text, flags=re.M)
    asking = {name for name, body in zip(rules[1::2], rules[2::2], strict=True) if "gpu=" in body}
    assert asking == set(cost.ON_GPU)


def test_the_rules_that_share_a_gpu_say_what_they_need():
    text = "".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
    steps = dict(re.findall(r'^rule (\w+):.*?logged\(\s*"([\w.]+)"', text, re.M | re.S))
    sources = {rule: (ROOT / f"{steps[rule].replace('.', '/')}.py").read_text() for rule in cost.ON_GPU}
    assert {rule for rule, source in sources.items() if re.search(r"acquire_device\([^)]", source)} == set(cost.SHARING)


def test_the_slurm_profile_keeps_the_default_settings():
    slurm_profile = yaml.safe_load(slurm.PROFILE.read_text())
    default = yaml.safe_load((ROOT / "profiles" / "default" / "config.yaml").read_text())
    del default["cores"]
    slurm_profile["__definitions__"].pop()  # one job for each GPU: tests/test_slurm.py
    assert default.items() <= slurm_profile.items()


def test_the_committed_slurm_profile_covers_the_rules():
    committed = yaml.safe_load(slurm.PROFILE.read_text())
    assert committed["executor"] == "slurm" and committed["retries"] > 0
    assert {"finetune_model", "compress_model", "train_method", "write_report"} <= committed["set-resources"].keys()
    assert all(resources["gpu"] == int(rule in cost.ON_GPU) for rule, resources in committed["set-resources"].items())
    text = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    rules = set(re.findall(r"^rule (\w+):", text, re.M))
    assert committed["set-resources"].keys() <= rules
    assigned = committed["set-resources"].items()
    texts = [f"{rule}:{name}={value}" for rule, resources in assigned for name, value in resources.items()]
    assert parse_set_resources(texts).keys() == committed["set-resources"].keys(), "Snakemake accepts the expressions"
