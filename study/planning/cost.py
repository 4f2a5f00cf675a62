"""Cost of a job of a study: arithmetic, memory and disk, from shapes and counts.

A simple model with few constants. A pass of N multiplied entries over D tokens takes 2 N D floating-point operations,
and a training step three times that (Kaplan et al. 2020, section 2.1), plus attention scores. AdamW reads and writes 28
bytes per parameter. Methods estimate their own costs: `Method.stored_bytes`, `memory_bytes` and `effort`. Speeds are
those of config/plan.yaml or of the machine at hand (`study.planning.speeds`).
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from itertools import product

from baselines import METHODS, Method
from baselines.estimates import FLOAT32_BYTES, HELD_BYTES, Effort, kept_bytes
from baselines.llm_surgeon import needs
from baselines.llm_surgeon.schedule import VARIANTS, Settings
from ken import certificate
from study.definition.kept_files import kept_files
from study.definition.study import CONTROLS, Cell, Study
from study.planning.sizes import ModelSize, SizedStudy, TaskSize
from study.running import device
from study.running.device import COMPRESSION, FINETUNING, GIB, MASKED_TRAINING, PARTS, Needs
from study.training.memory import MOST_TOKENS

ADAMW_BYTES = 28  # per parameter: weight, two moments read and written, gradient read, all float32
TRAINED_BYTES = 20  # held per parameter while training: weight, gradient, two moments, and a step or the best epoch
READ_BYTES = 8  # held per parameter while reading sub-networks: a mask, kept values, and their copies
TABLES_GIB = 2.0  # of a process that reads tables or draws figures
CONTEXT_GIB = 0.7  # of a process with torch, or of a CUDA context with its libraries
MATRIX_KINDS = 7  # kinds of matrices that the checks prune one at a time
COMPARISONS = 4  # evaluations in float32 of a cell whose precision is another one, see `study.cells.scoring.COMPARED`
TOKENS_PER_WORD = 1.5  # of text in English
SEARCH_ENDS = 2  # kept shares that a search evaluates besides the steps of its bisection


@dataclass(frozen=True)
class Work:
    """What a job does.

    Attributes:
        flops: floating-point operations of matrix products in float32.
        low_flops: floating-point operations that a GPU does in bfloat16, and a CPU in float32.
        bfloat16_flops: floating-point operations that every machine does in bfloat16.
        passes: forward passes of one layer over one batch.
        evaluation_passes, filled_passes: those of evaluations, in batches of the config's size (on a CPU), and in
            batches of as many tokens as fit (on a GPU).
        steps: training steps of one layer over one batch: forward, backward and update.
        activations: bytes of intermediate results in float32, see `activation_bytes`; a training step counts thrice.
            The speed of a core in bfloat16 includes those of `bfloat16_flops`.
        moved: bytes that the optimiser reads and writes.
        ranked: entries that are ranked.
        chosen: entries that are chosen from without a ranking on a CPU, at all budgets.
        gridded: entries that the points of a grid take, at all budgets, see `ken.grid`.
        coded: entries of models that are stored and loaded again.
        files: compressed models that are scored and recorded.
        written, read: bytes written to disk, and bytes of models read from it.
        items: small units of work without a model: predictions to check, random choices to compare with.
        disk: bytes that stay on disk.
    """

    flops: float = 0.0
    low_flops: float = 0.0
    bfloat16_flops: float = 0.0
    passes: float = 0.0
    evaluation_passes: float = 0.0
    filled_passes: float = 0.0
    steps: float = 0.0
    activations: float = 0.0
    moved: float = 0.0
    ranked: float = 0.0
    chosen: float = 0.0
    gridded: float = 0.0
    coded: float = 0.0
    files: float = 0.0
    written: float = 0.0
    read: float = 0.0
    items: float = 0.0
    disk: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def __mul__(self, times: float) -> "Work":
        return Work(**{f.name: getattr(self, f.name) * times for f in fields(self)})

    __rmul__ = __mul__


def forward_flops(size: ModelSize, tokens: float) -> float:
    """Floating-point operations per token of a text of `tokens` tokens: linear layers and attention products."""
    return 2 * (size.linear_entries + (1 + size.score_maps) * size.layers * size.width * tokens)


def scored_texts(task: TaskSize, control: bool) -> int:
    """Number of test texts that a compressed model (control: or a control, or the fine-tuned model) is evaluated on."""
    return task.test if control else task.sample(task.test)


def evaluation(size: ModelSize, rows: float, tokens: float, settings: dict) -> Work:
    """Work of an evaluation on a number of texts.

    Args:
        settings: the section evaluation of the config; without a precision in float32.
    """
    flops, wanted = rows * tokens * forward_flops(size, tokens), settings.get("precision", "float32")
    precision = "tf32" if wanted == "bfloat16" and not size.bfloat16 else wanted
    passes = Work(
        evaluation_passes=size.layers * math.ceil(rows / settings["batch_size"]),
        filled_passes=size.layers * math.ceil(rows * tokens / MOST_TOKENS),
    )
    return passes + _computation(flops, activation_bytes(size, rows, tokens, half=False), precision)


def _computation(flops: float, activations: float, precision: str) -> Work:
    """Work of matrix products and of what is between them; precision "auto" is bfloat16 on a GPU, float32 on a CPU."""
    if precision == "bfloat16":
        return Work(bfloat16_flops=flops)
    low = {"auto": flops, "tf32": 2 * flops}.get(precision, 0.0)  # TF32 has half the peak of bfloat16
    return Work(flops=flops if precision == "float32" else 0.0, low_flops=low, activations=activations)


def evaluation_on_test(study: SizedStudy, size: ModelSize, task: TaskSize, control: bool = False) -> Work:
    """Work of evaluating a compressed model, or a control, on the test set of a task."""
    rows = math.ceil(study.scored_share * scored_texts(task, control))
    return evaluation(size, rows, task.tokens, study.config["evaluation"])


def evaluation_on_validation(study: SizedStudy, size: ModelSize, task: TaskSize) -> Work:
    """Work of evaluating a compressed model on the validation set of a task."""
    return evaluation(size, task.validation, task.tokens, study.config["evaluation"])


def compared_with_float32(study: SizedStudy, size: ModelSize, task: TaskSize) -> Work:
    """Work of the evaluations in float32 that those in another precision are compared with, in one cell."""
    if study.config["evaluation"]["precision"] == "float32":
        return Work()
    settings = study.config["evaluation"] | {"precision": "float32"}
    return COMPARISONS * evaluation(size, scored_texts(task, control=False), task.tokens, settings)


def training(size: ModelSize, task: TaskSize, settings: dict, evaluating: dict | None = None) -> Work:
    """Work of a fine-tuning, including its validation after every epoch.

    Args:
        evaluating: the section evaluation of the config; by default in float32.
    """
    steps = settings["epochs"] * math.ceil(task.train / settings["batch_size"])
    flops = 3 * settings["epochs"] * task.train * task.tokens * forward_flops(size, task.tokens)
    activations = 3 * settings["epochs"] * activation_bytes(size, task.train, task.tokens, half=False)
    work = _trained(size, steps, flops, activations, settings)
    evaluating = evaluating or {"batch_size": settings["batch_size"]}
    return work + settings["epochs"] * evaluation(size, task.validation, task.tokens, evaluating)


def _trained(size: ModelSize, steps: float, flops: float, activations: float, settings: dict) -> Work:
    """Work of training steps in the precision of the settings; "auto" (the default) as the model supports it."""
    wanted = settings.get("precision", "auto")
    precision = "float32" if wanted == "auto" and not size.bfloat16 else wanted
    optimiser = Work(steps=steps * size.layers, moved=steps * size.parameters * ADAMW_BYTES)
    return optimiser + _computation(flops, activations, precision)


def effort_work(effort: Effort, size: ModelSize, tokens: float) -> Work:
    """Work that a method estimates for itself, with texts of `tokens` tokens."""
    step = 3 * tokens * forward_flops(size, tokens)
    return Work(
        flops=effort.gradient_texts * step + effort.flops,
        passes=3 * effort.gradient_texts * size.layers,
        activations=3 * activation_bytes(size, effort.gradient_texts, tokens, half=False),
        ranked=effort.ranked,
        chosen=effort.chosen,
        gridded=effort.gridded,
    )


def stored_work(study: SizedStudy, size: ModelSize, method: Method, cell: Cell) -> Work:
    """Work of storing, loading and recording one draw of a method at all its budgets; some files are deleted then.

    Files of which only scores are kept are written in memory.
    """
    budgets = study.budgets(method, cell[1])
    scores_only = method.name in study.config["scores_only"]
    written = 0.0 if scores_only else sum(method.stored_bytes(budget, size) for budget in budgets)
    kept = kept_on_disk(study, size, method, cell)
    return Work(coded=len(budgets) * size.body_entries, files=len(budgets), written=written, disk=kept)


def kept_on_disk(study: SizedStudy, size: ModelSize, method: Method, cell: Cell) -> float:
    """Bytes of a method's files that stay on disk in a cell, per draw; 0 if only its scores are kept."""
    if method.name in study.config["scores_only"]:
        return 0.0
    kept, budgets = kept_files(Study(study.config), cell), study.budgets(method, cell[1])
    read = budgets if kept is None else [budget for budget in budgets if budget in kept.get(method.name, ())]
    return sum(method.stored_bytes(budget, size) for budget in read)


def cell_read(size: ModelSize) -> Work:
    """Work of reading the initial state and the fine-tuned model of a cell."""
    return Work(read=2 * size.dense_bytes)


def activation_bytes(size: ModelSize, rows: float, tokens: float, half: bool) -> float:
    """Bytes that a training step keeps for its backward pass, without recomputation.

    In half precision a layer keeps 34 bytes for each of its rows x tokens x width numbers and 5 for each attention
    score (Korthikanti et al. 2022, equation 1); in float32 about twice as many.
    """
    scores = 5 * size.score_maps * size.heads * tokens / size.width
    return rows * tokens * size.width * size.layers * (34 + scores) * (1 if half else 2)


def training_gib(size: ModelSize, settings: dict, half: bool) -> float:
    """Memory of fine-tuning at its longest batch, in GiB.

    Args:
        half: whether to train in bfloat16, if the model can be.
    """
    held = TRAINED_BYTES * size.parameters
    held += activation_bytes(size, settings["batch_size"], settings["max_length"], half and size.bfloat16)
    return CONTEXT_GIB + held / 2**30


def _compress_with(study: SizedStudy, size: ModelSize, cell: Cell, method: Method) -> Work:
    """All files of a method that does not train: choose, store, load, evaluate on the scored texts of a task."""
    budgets, task = len(study.budgets(method, cell[1])), study.tasks[cell[1]]
    effort = method.effort(size, budgets)
    draw = budgets * evaluation_on_test(study, size, task, control=method.name in CONTROLS)
    draw += effort.validations * evaluation_on_validation(study, size, task)
    draw += stored_work(study, size, method, cell) + effort_work(effort, size, task.tokens)
    return study.draws(method) * draw


def _finetune(study: SizedStudy, model: str, task: str, seed: str, *, copies: int = 2) -> Work:
    """Work of fine-tuning a cell; the files are the initial state and the fine-tuned model, or none for a control.

    Files that are removed when the cell is finished do not count.
    """
    size, rows = study.models[model], study.tasks[task]
    work = training(size, rows, study.finetuning(model), study.config["evaluation"])
    work += evaluation_on_test(study, size, rows, control=True)
    work += Work(written=copies * size.dense_bytes, read=size.dense_bytes)
    released = (model, task, int(seed)) in Study(study.config).released_cells
    return work + Work(disk=0.0 if released else copies * size.dense_bytes)


def _compress(study: SizedStudy, model: str, task: str, seed: str) -> Work:
    size, rows, cell = study.models[model], study.tasks[task], (model, task, int(seed))
    work = sum((_compress_with(study, size, cell, method) for method in study.post_hoc()), cell_read(size))
    work += compared_with_float32(study, size, rows)
    search, removed = study.config["suggestion"], Study(study.config).removes_files
    looked_at = evaluation(size, rows.sample(rows.validation), rows.tokens, study.config["evaluation"])
    evaluated = SEARCH_ENDS + math.ceil(math.log2(1 / search["resolution"]))
    for name in search["methods"]:
        stored = METHODS[name].stored_bytes(0.5, size)
        work += evaluated * looked_at + evaluation_on_test(study, size, rows)
        work += Work(ranked=2 * size.parameters, coded=size.parameters, files=1, written=stored)
        work += Work(disk=0.0 if removed else stored)
    if search["smallest_file"]:
        tried = len(certificate.CODINGS) * len(certificate.SHARES) // 2  # a search seldom reaches the last share
        work += tried * (looked_at + Work(coded=size.parameters)) + evaluation_on_test(study, size, rows)
    return work


def _train(study: SizedStudy, model: str, task: str, seed: str, method: str) -> Work:
    size, rows, trained = study.models[model], study.tasks[task], METHODS[method]
    budgets = study.budgets(trained, task)
    fits = len(budgets) * study.learning_rates(trained)
    work = fits * trained.step_cost * training(size, rows, study.finetuning(model), study.config["evaluation"])
    work += len(budgets) * evaluation_on_test(study, size, rows)
    work += effort_work(trained.effort(size, len(budgets)), size, rows.tokens)
    return work + stored_work(study, size, trained, (model, task, int(seed))) + cell_read(size)


def _check(study: SizedStudy, model: str, task: str, **_: str) -> Work:
    size, rows, checks = study.models[model], study.tasks[task], study.config["checks"]
    at_a_share = len(checks["bandwidth_factors"]) + 4 * checks["zero"]
    files = 2 + len(checks["kept_shares"]) * at_a_share
    rankings = len(checks["kept_shares"]) * (len(checks["bandwidth_factors"]) + checks["zero"])
    disk = (1 + len(checks["kept_shares"]) * at_a_share * 0.25) * size.dense_bytes
    if checks["matrices"]:
        files, rankings, disk = files + MATRIX_KINDS, rankings + 1, disk + MATRIX_KINDS * size.dense_bytes
    work = files * evaluation_on_test(study, size, rows)
    work += Work(ranked=rankings * size.parameters, coded=files * size.parameters, files=files)
    kept = 0.0 if Study(study.config).removes_files else disk
    return work + Work(written=disk, disk=kept) + cell_read(size)


def _infer(study: SizedStudy, model: str, task: str, **_: str) -> Work:
    settings, size, rows = study.config["inference"], study.models[model], study.tasks[task]
    models = _measured_models(study)
    one = evaluation(size, settings["texts"], rows.tokens, {"batch_size": study.config["evaluation"]["batch_size"]})
    return models * (settings["passes"] + 2) * one + Work(coded=models * size.parameters) + cell_read(size)


def _measured_models(study: SizedStudy) -> int:
    """Largest number of models whose inference is measured in one job."""
    methods = [METHODS[name] for name in study.config["inference"]["methods"]]
    task = next(iter(study.tasks))  # the budgets of other units are those of every task
    return 1 + sum(1 if method.unit == "share" else 2 * len(study.budgets(method, task)) for method in methods)


def _tune(study: SizedStudy, model: str, **_: str) -> Work:
    grid, size, settings = study.config["tuning"], study.models[model], study.finetuning(model)
    runs = [settings | {"epochs": epochs} for epochs in grid["epochs"]]
    once = sum((training(size, rows, run) for rows in study.tasks.values() for run in runs), Work())
    return 2 * len(grid["learning_rates"]) * once


def _pretrain(study: SizedStudy, model: str, **_: str) -> Work:
    settings, size = study.config["pretraining"], study.models[model]
    steps = settings["tokens"] / (settings["batch_size"] * settings["max_length"])
    logits = size.width * settings["vocabulary"]
    flops = 3 * settings["tokens"] * (forward_flops(size, settings["max_length"]) + 2 * logits)
    texts = settings["tokens"] / settings["max_length"]
    activations = 3 * activation_bytes(size, texts, settings["max_length"], half=False)
    stored = Work(disk=size.dense_bytes, written=size.dense_bytes)
    return _trained(size, steps, flops, activations, settings) + stored


def _import(study: SizedStudy, model: str, **_: str) -> Work:
    bytes_of_model = study.models[model].dense_bytes
    return Work(disk=bytes_of_model, written=bytes_of_model, read=bytes_of_model)


def _collect(study: SizedStudy) -> Work:
    pairs = [(method, task) for task in study.tasks for method in study.post_hoc()]
    runs = [study.draws(method) * len(study.budgets(method, task)) for method, task in pairs]
    return Work(items=len(study.config["models"]) * len(study.config["seeds"]) * sum(runs))


def _updates(study: SizedStudy) -> Work:
    """Rankings by two methods in every cell, and one of the pre-trained weights for every model and seed."""
    seeds = len(study.config["seeds"])
    entries = sum(study.models[model].body_entries for model in study.config["models"])
    return Work(ranked=seeds * entries * (2 * len(study.tasks) + 1))


def _spread(study: SizedStudy) -> Work:
    settings = study.config["spread"]
    return Work(items=len(study.config["models"]) * len(settings["methods"]) * settings["draws"])


def _prune_language_model(study: SizedStudy, model: str, **_: str) -> Work:
    """Work of all prunings by curvature of a language model; other methods count as one that updates nothing."""
    size, section = study.models[model], study.config["language_modelling"]
    settings, length = section["pruning"], section["max_length"]
    chunks = math.ceil(settings["text"]["test_words"] * TOKENS_PER_WORD / length)
    one = effort_work(Effort(gradient_texts=settings["calibration"]), size, length)
    one += Work(needs.estimate_flops(size.linear, settings["calibration"] * length))
    tested = evaluation(size, chunks, length, {"batch_size": section["batch_size"]}) + Work(coded=size.body_entries)
    work = one + tested  # of the dense model
    for method, structure, shots in product(settings["methods"], settings["structures"], settings["shots"]):
        sparsities = 1 if structure == "2:4" else len(settings["sparsities"])
        of_method = Settings().with_options(VARIANTS.get(method, {"costs": "l-obd"}) | {"structure": structure})
        pruned = sparsities if shots == 1 else shots
        estimates = pruned - 1 if of_method.curved and shots > 1 else 0
        work += sparsities * tested + Work(pruned * needs.shot_flops(size.linear, of_method)) + estimates * one
        kept = [0.5] if structure == "2:4" else [1 - sparsity for sparsity in settings["sparsities"]]
        unpruned = size.dense_bytes - FLOAT32_BYTES * size.linear_entries
        work += Work(disk=sum(unpruned + kept_bytes(size.linear, share) for share in kept))
    return work


RULES: dict[str, Callable[..., Work]] = {
    "import_model": _import,
    "pretrain_model": _pretrain,
    "tune_model": _tune,
    "finetune_model": _finetune,
    "finetune_random_init": partial(_finetune, copies=0),
    "compress_model": _compress,
    "train_method": _train,
    "check_cell": _check,
    "measure_inference": _infer,
    "prune_language_model": _prune_language_model,
    "collect_scores": _collect,
    "describe_spread": _spread,
    "describe_updates": _updates,
}
ON_GPU = (
    *("pretrain_model", "tune_model", "finetune_model", "finetune_random_init", "compress_model", "train_method"),
    *("check_cell", "describe_updates", "adapt_language_model", "prune_language_model"),
)
TRAINING = ("finetune_model", "finetune_random_init", "train_method")
SHARING = {  # that can share a GPU -> models that it holds there
    "finetune_model": FINETUNING, "finetune_random_init": FINETUNING, "train_method": MASKED_TRAINING,
    "compress_model": COMPRESSION, "check_cell": COMPRESSION,
}  # fmt: skip
READING = ("describe_spread", "draw_kenviz")
NOT_ESTIMATED = ("adapt_language_model", "compress_language_model")
PRUNED_BYTES = 21  # a parameter: dense, live and restored model, a file and its base, and its mask
HELD_MODELS = 3  # of a cell in addition to those that are measured: initial, fine-tuned, current


def work_of(study: SizedStudy, rule: str, wildcards: dict[str, str]) -> Work:
    """Work of a job; none for a rule without an estimate, which then costs only the start of a process."""
    return RULES[rule](study, **wildcards) if rule in RULES else Work()


def memory_gib(study: SizedStudy, rule: str, wildcards: dict[str, str], half: bool) -> float:
    """Memory of a job, in GiB; a job on a GPU needs the same amount of GPU memory and of the machine's."""
    largest = max((size.parameters for size in study.models.values()), default=0)
    if rule in READING:
        return TABLES_GIB + READ_BYTES * largest / 2**30
    if rule == "import_model":
        return CONTEXT_GIB + 2 * study.models[wildcards["model"]].dense_bytes / 2**30
    if rule == "measure_inference":
        held = HELD_MODELS + _measured_models(study)
        return CONTEXT_GIB + held * study.models[wildcards["model"]].dense_bytes / 2**30
    if rule not in (*ON_GPU, *NOT_ESTIMATED) or rule == "describe_updates":  # which reads models block by block
        return TABLES_GIB
    size = study.models[wildcards["model"]]
    if rule == "prune_language_model":
        curvature = 2 * needs.memory_bytes(size.linear)  # that of the dense model stays, for all methods
        return CONTEXT_GIB + (PRUNED_BYTES * size.parameters + curvature) / 2**30
    compressing = CONTEXT_GIB + _compression_bytes(study, rule, wildcards, size) / 2**30
    if rule == "compress_model":
        return compressing
    return max(compressing, training_gib(size, study.finetuning(wildcards["model"]), half))


def _compression_bytes(study: SizedStudy, rule: str, wildcards: dict[str, str], size: ModelSize) -> float:
    """Largest memory of the methods of a job, without training; for other rules, the usual memory of a method."""
    if rule == "compress_model":
        return max(method.memory_bytes(size) for method in study.post_hoc())
    if rule == "train_method":
        return METHODS[wildcards["method"]].memory_bytes(size)
    return HELD_BYTES * size.parameters


def is_gpu(machine: dict) -> bool:
    """Whether a machine of config/plan.yaml is a GPU."""
    return "memory_gib" in machine


def gpu_gib(study: SizedStudy, rule: str, model: str) -> float:
    """Memory of a GPU that a job on a model needs at least, in GiB: for fine-tuning by single texts, or for pruning."""
    if rule == "prune_language_model":
        return memory_gib(study, rule, {"model": model}, half=True)
    size, settings = study.models[model], study.finetuning(model) | {"batch_size": 1}
    beside_weights = SHARING.get(rule, FINETUNING) - FINETUNING
    return training_gib(size, settings, half=True) + beside_weights * size.dense_bytes / GIB


def jobs_per_gpu(study: SizedStudy) -> int:
    """Most jobs that share a GPU: as the environment says, else as the config does."""
    return device.jobs_per_gpu() if device.JOBS in os.environ else study.config["jobs_per_gpu"]


def parts_of_gpu(study: SizedStudy, rule: str, wildcards: dict[str, str], machine: dict) -> int:
    """Eighths of a GPU that a job takes, see `study.running.device`."""
    sharing = jobs_per_gpu(study)
    if rule not in SHARING or sharing == 1:
        return PARTS
    needs = Needs.of_model(study.models[wildcards["model"]].dense_bytes, SHARING[rule])
    return needs.parts(sharing, machine["memory_gib"] * GIB, machine["beside_gib"] * GIB)


def gpu_seconds(work: Work, machine: dict) -> float:
    """Seconds that a GPU computes in a job: matrix products, steps of the optimiser, rankings, choices by a grid."""
    chosen = work.ranked / machine["ranked"] + work.gridded / machine["grid"]
    return _computed(work, machine) + chosen / 1e6


def _computed(work: Work, machine: dict) -> float:
    reached = machine["tflops"] * machine["utilisation"]
    computed = work.low_flops / (reached * 1e12) + work.moved / (machine["gb_per_s"] * 1e9)
    computed += work.bfloat16_flops / (machine.get("bfloat16_tflops", reached) * 1e12)
    return computed + work.flops / (machine.get("float32_tflops", reached) * 1e12)


def seconds_of(work: Work, machine: dict, core: dict) -> float:
    """Seconds of a job on a machine of config/plan.yaml.

    A CPU core starts a pass, then computes it: matrix products, and the functions of single numbers between them, which
    take longest in narrow models. A GPU computes while the core beside it starts the next passes.
    """
    computed = _computed(work, machine)
    passes = work.passes + (work.filled_passes if is_gpu(machine) else work.evaluation_passes)
    started = (passes * machine["layer_ms"] + work.steps * machine["step_ms"]) / 1000
    elementwise = work.activations / (machine.get("activation_gb_per_s", math.inf) * 1e9)
    trained = max(computed, started) if is_gpu(machine) else computed + started + elementwise
    speeds = core | {name: machine[name] for name in ("ranked", "grid") if name in machine}
    chosen = work.ranked / speeds["ranked"] + work.gridded / speeds["grid"] + work.chosen / core["chosen"]
    stored = work.coded / (core["coded"] * 1e6) + work.files * core["file_s"]
    disk = work.written / (core["write_gb_per_s"] * 1e9) + work.read / (core["read_gb_per_s"] * 1e9)
    return core["start_s"] + trained + chosen / 1e6 + stored + disk + work.items / core["items"]
