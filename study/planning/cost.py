"""What a job of a study costs: arithmetic, memory and disk, from shapes and numbers alone.

A small model with few constants. A pass of N multiplied entries over D tokens takes 2 N D floating-point operations and
a step of training three times that (Kaplan et al. 2020, section 2.1), attention scores come on top; AdamW reads and
writes 28 bytes a parameter; a stored file has its values and log2 C(n, k) bits a row.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields

import baselines
from baselines.training import TrainedMethod
from ken.extraction import in_scope
from ken.selection import kept_count
from study.definition import method_settings
from study.planning.sizes import ModelSize, TaskSize

WIDTH = 4  # bytes of a float32, which everything is stored in
ADAMW_BYTES = 28  # a parameter: weight, two moments read and written, gradient read, all float32
TRAINED_BYTES = 20  # a parameter held while training: weight, gradient, two moments, weight of the best epoch
COMPRESSED_BYTES = (
    37  # held while compressing: initial, fine-tuned, live; a sort of the whole model; a file and its mask
)
READ_BYTES = 8  # a parameter held where sub-networks are read: a mask, kept values, and their copies
TABLES_GIB = 2.0  # of a process that reads tables or draws
CONTEXT_GIB = 0.7  # of a process with torch, or of a CUDA context with its libraries
OVERHEAD = 1.02  # of a stored file over its values and positions, see benchmarks.file_size
TRAINING_FACTOR = {"flop": 2.0}  # two factors in place of every square layer
CALIBRATION_TEXTS, FISH_TEXTS = 128, 256
KINDS = 7  # of matrices that checks prune one at a time
LOOKS = 2  # of the search for a share, beside the steps of its bisection


@dataclass(frozen=True)
class Work:
    """What a job does.

    Attributes:
        flops: floating-point operations of matrix products in float32.
        low_flops: those that a GPU does in bfloat16.
        passes: passes of one layer over one batch; a step of training counts three.
        moved: bytes that the optimiser reads and writes.
        ranked: entries that KEN ranks. grid: entries that ken-grid chooses from, at all its budgets.
        coded: entries of models that are stored and loaded again.
        items: small things that rules without a model go through: predictions to check, random choices to compare with.
        disk: bytes that stay.
    """

    flops: float = 0.0
    low_flops: float = 0.0
    passes: float = 0.0
    moved: float = 0.0
    ranked: float = 0.0
    grid: float = 0.0
    coded: float = 0.0
    items: float = 0.0
    disk: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def __mul__(self, times: float) -> "Work":
        return Work(**{f.name: getattr(self, f.name) * times for f in fields(self)})

    __rmul__ = __mul__


@dataclass(frozen=True)
class Study:
    """A complete config with the sizes of its models, language models among them, and tasks."""

    config: dict
    models: dict[str, ModelSize]
    tasks: dict[str, TaskSize]

    def settings(self, model: str) -> dict:
        """Section finetuning with what the model overrides."""
        found, models = self.config["finetuning"], self.config["models"]
        return found | {key: value for key, value in models.get(model, {}).items() if key in found}

    def post_hoc(self) -> list[str]:
        """Methods that do not train, with the controls."""
        named = ["full", "none", *self.config["methods"]]
        return [name for name in dict.fromkeys(named) if not _trains(name)]

    def budgets(self, method: str) -> list[float | int]:
        """Budgets that a method is run at."""
        return method_settings.budgets_in(self.config, baselines.METHODS[method])

    def draws(self, method: str) -> int:
        """How often a method is run."""
        return method_settings.draws(baselines.METHODS[method], self._said(method), self.config["draws"])

    def rate_factors(self, method: str) -> int:
        """Number of learning rates that a method that trains tries."""
        return len(method_settings.rate_factors(baselines.METHODS[method], self._said(method)))

    def _said(self, method: str) -> dict:
        return self.config["method_settings"].get(method, {})


def _trains(method: str) -> bool:
    return isinstance(baselines.METHODS[method], TrainedMethod)


def forward_flops(size: ModelSize, tokens: float) -> float:
    """Floating-point operations of a token in a text of that many tokens: layers, and the two products of attention."""
    return 2 * (size.multiplied + (1 + size.score_maps) * size.layers * size.width * tokens)


def evaluation(size: ModelSize, rows: int, tokens: float, batch_size: int) -> Work:
    """Work of answering texts."""
    return Work(rows * tokens * forward_flops(size, tokens), passes=size.layers * math.ceil(rows / batch_size))


def training(size: ModelSize, task: TaskSize, settings: dict) -> Work:
    """Work of a fine-tuning, its validation after every epoch included."""
    steps = settings["epochs"] * math.ceil(task.train / settings["batch_size"])
    flops = 3 * settings["epochs"] * task.train * task.tokens * forward_flops(size, task.tokens)
    work = Work(passes=3 * steps * size.layers, moved=steps * size.parameters * ADAMW_BYTES)
    work += Work(low_flops=flops) if size.bfloat16 else Work(flops)
    return work + settings["epochs"] * evaluation(size, task.validation, task.tokens, settings["batch_size"])


def stored_bytes(method: str, budget: float | int, size: ModelSize) -> float:
    """Bytes of the file of a method at a budget; of a method with a unit of its own, the whole model at most."""
    linear = sum(map(math.prod, size.linear.values()))
    whole = WIDTH * size.parameters
    match method:
        case "full":
            return whole
        case "none":
            return WIDTH * size.head
        case "bitdelta":
            return linear / 8 + whole - WIDTH * linear
        case "lora":
            return WIDTH * (size.head + budget * sum(map(sum, size.linear.values())))
        case "flop":
            return whole - WIDTH * linear * (1 - budget)
        case "llm-surgeon":
            layers = {f"{name}.weight": shape for name, shape in size.linear.items()}
            return whole - WIDTH * linear + kept_bytes(layers, budget)
    if baselines.METHODS[method].unit != "share":
        return whole
    scope = "layers" if method == "ken-grid-layers" else "all"
    pruned = {name: shape for name, shape in size.body.items() if in_scope(name, scope)}
    entries = sum(map(math.prod, pruned.values()))
    return whole - WIDTH * entries + kept_bytes(pruned, budget)


def kept_on_disk(study: Study, size: ModelSize, method: str) -> float:
    """Bytes of a draw's files of a method that stay, which are none where only its scores are wanted."""
    if method in study.config["scores_only"]:
        return 0.0
    return sum(stored_bytes(method, budget, size) for budget in study.budgets(method))


def row_lengths(shapes: dict[str, tuple[int, ...]]) -> Counter[int]:
    """Length of a row -> number of such rows."""
    counted: Counter[int] = Counter()
    for shape in shapes.values():
        rows, n = (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, math.prod(shape))
        counted[n] += rows
    return counted


def kept_bytes(shapes: dict[str, tuple[int, ...]], budget: float | int, width: int = WIDTH) -> float:
    """Bytes of k entries of each row, `width` bytes a value, and of their places: log2 C(n, k) bits a row."""
    kept = {n: kept_count(n, budget) for n in row_lengths(shapes) if n}
    rows = row_lengths(shapes)
    return OVERHEAD * sum(rows[n] * (k * width + log2_choices(n, k) / 8) for n, k in kept.items())


def log2_choices(n: int, k: int) -> float:
    """log2 C(n, k): bits that a choice of k entries of n needs."""
    return (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)


def activation_bytes(size: ModelSize, rows: int, tokens: int, half: bool) -> float:
    """Bytes that a step of training keeps for its backward pass, without recomputation.

    In half precision a layer keeps 34 bytes for each of its rows x tokens x width numbers and 5 for each attention
    score (Korthikanti et al. 2022, equation 1); in float32 about twice as many.
    """
    scores = 5 * size.score_maps * size.heads * tokens / size.width
    return rows * tokens * size.width * size.layers * (34 + scores) * (1 if half else 2)


def training_gib(size: ModelSize, settings: dict, half: bool) -> float:
    """Memory that fine-tuning needs at its longest batch, in GiB; `half`: in bfloat16 where the model can."""
    held = TRAINED_BYTES * size.parameters
    held += activation_bytes(size, settings["batch_size"], settings["max_length"], half and size.bfloat16)
    return CONTEXT_GIB + held / 2**30


def compression_gib(size: ModelSize) -> float:
    """Memory that compressing a cell needs, in GiB."""
    return CONTEXT_GIB + COMPRESSED_BYTES * size.parameters / 2**30


def _stored(study: Study, size: ModelSize, task: TaskSize, method: str) -> Work:
    """All files of a method that does not train: choose, store, load, answer the test set."""
    budgets, draws = study.budgets(method), study.draws(method)
    files = len(budgets) * draws
    entries = sum(map(math.prod, size.body.values()))
    work = files * evaluation(size, task.test, task.tokens, study.config["evaluation"]["batch_size"])
    work += Work(coded=files * entries, disk=draws * kept_on_disk(study, size, method))
    if method.startswith("ken-grid"):
        work += Work(grid=files * entries)
    elif baselines.METHODS[method].family != "control":
        work += Work(ranked=draws * entries)
    if baselines.METHODS[method].needs_data:
        texts = CALIBRATION_TEXTS
        step = 3 * task.tokens * forward_flops(size, task.tokens)
        inverses = sum(2 * (outputs**3 + inputs**3) for outputs, inputs in size.linear.values())
        work += Work(texts * step + files * inverses, passes=3 * texts * size.layers)
    return work


def _finetune(study: Study, model: str, task: str, **_: str) -> Work:
    size, rows = study.models[model], study.tasks[task]
    batch_size = study.config["evaluation"]["batch_size"]
    work = training(size, rows, study.settings(model)) + evaluation(size, rows.test, rows.tokens, batch_size)
    return work + Work(disk=2 * WIDTH * size.parameters)


def _finetune_random(study: Study, **axes: str) -> Work:
    return _finetune(study, **axes) + Work(disk=-2 * WIDTH * study.models[axes["model"]].parameters)


def _compress(study: Study, model: str, task: str, **_: str) -> Work:
    size, rows = study.models[model], study.tasks[task]
    work = sum((_stored(study, size, rows, method) for method in study.post_hoc()), Work())
    search, batch_size = study.config["suggestion"], study.config["evaluation"]["batch_size"]
    looks = LOOKS + math.ceil(math.log2(1 / search["resolution"]))
    for method in search["methods"]:
        work += looks * evaluation(size, rows.validation, rows.tokens, batch_size)
        work += evaluation(size, rows.test, rows.tokens, batch_size)
        work += Work(ranked=2 * size.parameters, coded=size.parameters, disk=stored_bytes(method, 0.5, size))
    return work


def _train(study: Study, model: str, task: str, method: str, **_: str) -> Work:
    size, rows, budgets = study.models[model], study.tasks[task], study.budgets(method)
    fits = len(budgets) * study.rate_factors(method)
    work = fits * TRAINING_FACTOR.get(method, 1.0) * training(size, rows, study.settings(model))
    batch_size = study.config["evaluation"]["batch_size"]
    work += len(budgets) * evaluation(size, rows.test, rows.tokens, batch_size)
    if method == "fish":
        step = 3 * rows.tokens * forward_flops(size, rows.tokens)
        work += Work(FISH_TEXTS * step, passes=3 * FISH_TEXTS * size.layers)
    return work + Work(coded=len(budgets) * size.parameters, disk=kept_on_disk(study, size, method))


def _check(study: Study, model: str, task: str, **_: str) -> Work:
    size, rows, checks = study.models[model], study.tasks[task], study.config["checks"]
    at_a_share = len(checks["bandwidth_factors"]) + 4 * checks["zero"]
    files = 2 + len(checks["kept_shares"]) * at_a_share
    rankings = len(checks["kept_shares"]) * (len(checks["bandwidth_factors"]) + checks["zero"])
    disk = (1 + len(checks["kept_shares"]) * at_a_share * 0.25) * WIDTH * size.parameters
    if checks["matrices"]:
        files, rankings, disk = files + KINDS, rankings + 1, disk + KINDS * WIDTH * size.parameters
    work = files * evaluation(size, rows.test, rows.tokens, study.config["evaluation"]["batch_size"])
    return work + Work(ranked=rankings * size.parameters, coded=files * size.parameters, disk=disk)


def _infer(study: Study, model: str, task: str, **_: str) -> Work:
    settings, size, rows = study.config["inference"], study.models[model], study.tasks[task]
    models = _inferring(study)
    one = evaluation(size, settings["texts"], rows.tokens, study.config["evaluation"]["batch_size"])
    return models * (settings["passes"] + 2) * one + Work(coded=models * size.parameters)


def _inferring(study: Study) -> int:
    """Number of models that are measured side by side, at most."""
    methods = [baselines.METHODS[name] for name in study.config["inference"]["methods"]]
    return 1 + sum(1 if method.unit == "share" else 2 * len(study.budgets(method.name)) for method in methods)


def _tune(study: Study, model: str, **_: str) -> Work:
    grid, size, settings = study.config["tuning"], study.models[model], study.settings(model)
    runs = [settings | {"epochs": epochs} for epochs in grid["epochs"]]
    tasks = study.tasks.values()
    once = sum((training(size, rows, run) for rows in tasks for run in runs), Work())
    return 2 * len(grid["learning_rates"]) * once


def _pretrain(study: Study, model: str, **_: str) -> Work:
    settings, size = study.config["pretraining"], study.models[model]
    steps = settings["tokens"] / (settings["batch_size"] * settings["max_length"])
    logits = size.width * settings["vocabulary"]
    flops = 3 * settings["tokens"] * (forward_flops(size, settings["max_length"]) + 2 * logits)
    disk = WIDTH * size.parameters
    return Work(flops, passes=3 * steps * size.layers, moved=steps * size.parameters * ADAMW_BYTES, disk=disk)


def _import(study: Study, model: str, **_: str) -> Work:
    return Work(disk=WIDTH * study.models[model].parameters)


def _collect(study: Study) -> Work:
    cells = len(study.config["models"]) * len(study.tasks) * len(study.config["seeds"])
    return Work(items=cells * sum(study.draws(method) * len(study.budgets(method)) for method in study.post_hoc()))


def _spread(study: Study) -> Work:
    settings = study.config["spread"]
    return Work(items=len(study.config["models"]) * len(settings["methods"]) * settings["draws"])


RULES: dict[str, Callable[..., Work]] = {
    "import_model": _import,
    "pretrain_model": _pretrain,
    "tune_model": _tune,
    "finetune_model": _finetune,
    "finetune_random_init": _finetune_random,
    "compress_model": _compress,
    "train_method": _train,
    "check_cell": _check,
    "measure_inference": _infer,
    "collect_scores": _collect,
    "describe_spread": _spread,
}
ON_GPU = ("tune_model", "finetune_model", "finetune_random_init", "compress_model", "train_method", "check_cell")
READING = ("describe_spread", "draw_kenviz")
NOT_ESTIMATED = ("prune_language_model", "adapt_language_model", "compress_language_model")
HELD = 3  # copies of a cell's model beside those that are measured: initial, fine-tuned, live


def work_of(study: Study, rule: str, wildcards: dict[str, str]) -> Work:
    """Work of a job; that of a rule not known here is none, as if it cost the start of a process only."""
    return RULES[rule](study, **wildcards) if rule in RULES else Work()


def memory_gib(study: Study, rule: str, wildcards: dict[str, str], half: bool) -> float:
    """Memory that a job needs, in GiB; one on a GPU is given as much of the machine's as of the GPU's."""
    largest = max(size.parameters for size in study.models.values())
    if rule in READING:
        return TABLES_GIB + READ_BYTES * largest / 2**30
    if rule == "import_model":
        return CONTEXT_GIB + 2 * WIDTH * study.models[wildcards["model"]].parameters / 2**30
    if rule == "measure_inference":
        held = HELD + _inferring(study)
        return CONTEXT_GIB + held * WIDTH * study.models[wildcards["model"]].parameters / 2**30
    if rule not in ON_GPU and rule not in ("pretrain_model", *NOT_ESTIMATED):
        return TABLES_GIB
    size = study.models[wildcards["model"]]
    compressing = compression_gib(size)
    return (
        compressing
        if rule == "compress_model"
        else max(compressing, training_gib(size, study.settings(wildcards["model"]), half))
    )


def is_gpu(machine: dict) -> bool:
    """Whether a machine of config/plan.yaml is a GPU."""
    return "memory_gib" in machine


def seconds_of(work: Work, machine: dict, core: dict) -> float:
    """Seconds of a job on a machine of config/plan.yaml.

    A core computes what it starts; a GPU computes while the core beside it starts what comes next.
    """
    reached = machine["tflops"] * machine["utilisation"]
    computed = work.low_flops / (reached * 1e12) + work.moved / (machine["gb_per_s"] * 1e9)
    computed += work.flops / (machine.get("float32_tflops", reached) * 1e12)
    started = work.passes * machine["layer_ms"] / 1000
    ranked = machine.get("ranked", core["ranked"]) * 1e6
    stored = work.ranked / ranked + work.grid / (core["grid"] * 1e6) + work.coded / (core["coded"] * 1e6)
    trained = max(computed, started) if is_gpu(machine) else computed + started
    return core["start_s"] + trained + stored + work.items / core["items"]
