"""The sections of a config: meaning, valid values and default of every key."""

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import MISSING, AfterValidator, BeforeValidator, Field, ValidationInfo, create_model
from typing_extensions import TypeAliasType

from baselines import Method
from baselines.base import unknown_method
from baselines.layerwise import LAYERWISE
from baselines.llm_surgeon.options import LowRank, Structure
from baselines.llm_surgeon.schedule import STRUCTURES, VARIANTS
from baselines.options import Above0, Integer, Natural, Number, Positive, Section, Several, Share, Unique, optional
from study.definition.sources import (
    BatchSize,
    Budget,
    Epochs,
    LearningRate,
    Models,
    Name,
    RandomInitLearningRate,
    Tasks,
    Text,
)

CONTROLS = "the controls full and none are always run"
NAMED = 'a name is lower-case letters, digits, ".", "_" and "-"'


def _registered(name: str, info: ValidationInfo) -> str:
    if name not in (methods := info.context["methods"]):
        raise ValueError(f"is {json.dumps(name)}, which {unknown_method(name, methods)}")
    return name


EMPTY = BeforeValidator(lambda value: {} if value is None else value)  # all its lines may be commented out
METHOD_NAME = "name of a registered method, or of a selection with the number of bits of its kept updates"
MethodName = TypeAliasType(  # so that the schema has one definition, which gets the registered names
    "MethodName", Annotated[str, AfterValidator(_registered), Field(description=METHOD_NAME)]
)
Package = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$(?!\n)", description="a name under which a package is imported")]


class MethodSettings(Section):
    """Settings of one method."""

    budgets: Several[Above0] | MISSING = optional(
        "budgets in the method's unit; by default the method's, or kept_shares"
    )
    draws: Positive | MISSING = optional("number of draws, for a method that chooses at random")
    rate_factors: Several[Above0] | MISSING = optional(
        "multiples of the fine-tuning's learning rate to try, for a method that trains; the best on validation is used"
    )


class TrainedOn(Section):
    """Cells for methods that train, for inference and for checks; by default all."""

    models: Several[str] | MISSING = optional("some of the models")
    tasks: Several[str] | MISSING = optional("some of the tasks")
    seeds: Several[Natural] | MISSING = optional("some of the seeds")


class Inference(Section):
    """How inference time and memory of restored models are measured, on the cells of trained_on."""

    methods: Unique[MethodName] = Field(
        [],
        description="methods to compare with the dense model, at their first budget if budgets are shares of each row, "
        "otherwise at every budget; none by default",
    )
    texts: Positive = Field(128, description="test texts in a pass")
    passes: Positive = Field(5, description="passes of each model; the models take turns")


class Checks(Section):
    """Ablations of KEN, on the cells of trained_on; none by default."""

    kept_shares: Several[Share] = Field([0.25], description="kept shares at which bandwidth and zero are varied")
    bandwidth_factors: Unique[Above0] = Field([], description="what Scott's bandwidth is multiplied by")
    zero: bool = Field(False, description="whether entries are also set to zero instead of reset")
    matrices: bool = Field(False, description="whether each kind of matrix is also pruned alone")
    matrices_kept_share: Share = Field(0.05, description="share of each row that is kept in that kind of matrix")


class Spread(Section):
    """Test whether the entries that methods keep form clusters, on every model's first cell."""

    methods: Unique[MethodName] = Field([], description="methods to test; none by default")
    kept_share: Number = Field(0.25, description="share of each row at which they are tested")
    draws: Integer = Field(200, ge=20, description="number of random choices that each method is compared with")


class Timing(Section):
    """Measurement of the pruning time against size and k, on random rows."""

    heights: Unique[Positive] = Field([], description="numbers of rows; nothing is measured by default")
    length: Integer = Field(768, ge=2, description="entries of a row")
    widths: Several[Positive] = Field([192, 384, 1536], description="other entries of a row, with the most rows")
    budgets: Several[Positive] = Field([16, 48, 96, 192, 384], description="numbers of entries kept in a row")


class Corpus(Section):
    """Docstring prose of installed packages, for tasks with "source" docstrings and for pre-training."""

    packages: Several[Package] = Field(description="names under which the packages are imported")
    min_words: Positive = Field(15, description="shortest snippet that becomes an example, in words")
    max_words: Positive = Field(45, description="longest snippet that becomes an example, in words")


class Pretraining(Section):
    """How models with "source" pretraining are pre-trained."""

    tokens: Positive = Field(1_200_000, description="tokens seen in training")
    learning_rate: LearningRate = 0.001
    batch_size: Positive = Field(16, description="blocks in a batch")
    max_length: Integer = Field(64, ge=8, description="tokens in a block, and the longest text the model can read")
    vocabulary: Integer = Field(4096, ge=300, description="entries of the tokenizer's vocabulary")
    mask_share: Share = Field(0.2, description="share of the tokens that a masked language model predicts")
    seed: Natural = Field(0, description="seed of initialisation, order and masks")


class Finetuning(Section):
    """How every cell is fine-tuned; a model may override some of it."""

    epochs: Epochs = 3
    batch_size: BatchSize = 16
    learning_rate: LearningRate = 0.0005
    random_init_learning_rate: RandomInitLearningRate | MISSING = MISSING
    max_length: Integer = Field(
        64, ge=2, description="tokens after which a text is cut off; fewer if the model has fewer positions"
    )
    warmup_share: Number = Field(0.1, ge=0, le=1, description="share of the steps in which the learning rate rises")
    weight_decay: Number = Field(0.01, ge=0, description="decoupled weight decay of AdamW")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="of matrix products; auto is bfloat16 on a GPU that supports it (not for DeBERTa), else float32",
    )
    checkpoint_minutes: Number = Field(
        10,
        ge=0,
        description="minutes between saves of the state that a killed training resumes from; 0 for every step",
    )
    random_init_seeds: Unique[Natural] | MISSING = optional(
        "seeds also fine-tuned from random initialisation, to show what pre-training adds; by default the first seed"
    )


class Evaluation(Section):
    """How models are evaluated."""

    batch_size: Positive = Field(
        32, description="examples in a batch; on a GPU only in the first one, from which the size of the others follows"
    )
    precision: Literal["float32", "tf32", "bfloat16"] = Field(
        "float32",
        description="of matrix products; where it is not float32, some models of each cell are also evaluated in "
        "float32 and compared (changed_share in scores.csv); DeBERTa, which cannot be computed in bfloat16, takes tf32",
    )


class SuggestionSearch(Section):
    """Search on validation for the smallest kept share, or file, that is not inferior to the full model."""

    methods: Unique[MethodName] = Field([], description="methods, which must rank entries; none by default")
    smallest_file: bool = Field(False, description="search for the smallest file over ways of coding, as `ken suggest`")
    margin: Share = Field(0.01, description="weighted F1 that may be lost")
    confidence: Number = Field(
        0.95, gt=0.5, lt=1, description="that no more is lost, by a paired bootstrap over the validation examples"
    )
    resolution: Share = Field(0.01, description="of the suggested share")


class Kenviz(Section):
    """Which sub-network the report draws; by default that of the first model, task and seed."""

    model: str | MISSING = optional("name of a model of this study")
    task: str | MISSING = optional("name of a task of this study")
    method: MethodName | MISSING = optional(
        "method of this study that keeps a share of each row; by default ken, or the last one run at kept_share"
    )
    kept_share: Number | MISSING = optional("share of each row kept; by default 0.25, or the last of kept_shares")
    matrix: str | MISSING = optional(
        "a part of a matrix name, such as query.weight; by default the queries", pattern=r"^[A-Za-z0-9_.*]+$(?!\n)"
    )


class PruningExperiment(Section):
    """Linear layers pruned towards zero, by the curvature of the loss and by others; not run without a text."""

    text: Text | MISSING = optional("text on which the loss is measured")
    methods: Several[Literal[*VARIANTS, *LAYERWISE]] = Field(
        [*VARIANTS, *LAYERWISE],
        description="methods of pruning to compare; SparseGPT and Wanda have one shot and remove no rows and columns",
    )
    structures: Several[Structure] = Field([*STRUCTURES], description="what is removed at once")
    sparsities: Several[Share] = Field(
        [0.1, 0.2, 0.3, 0.4, 0.5],
        description="shares of the linear layers' entries that are removed; 2:4 always removes one half",
    )
    shots: Several[Positive] = Field(
        [1, 5],
        description="numbers of shots to the largest sparsity, which pass the smaller ones; with 1 shot, each sparsity "
        "is reached from the dense model",
    )
    structured_shots: Several[Positive] | MISSING = optional("the same for rows and columns; by default shots")
    calibration: Positive = Field(
        128, description="chunks of training text on which the curvature and the inputs of the layers are estimated"
    )
    low_rank: LowRank = 0


class AdaptationExperiment(Section):
    """Training on a text and compression of the update; not run without a text."""

    text: Text | MISSING = optional("text to adapt to")
    methods: Several[MethodName] = Field(
        ["ken", "ken-rescaled", "random", "delta-magnitude"], description=f"methods to compare; {CONTROLS}"
    )
    kept_shares: Several[Share] = Field([0.05, 0.25, 0.5], description="shares of each row that are kept")
    epochs: Epochs = 3
    batch_size: BatchSize = 16
    learning_rate: LearningRate = 0.0005


class LanguageModelling(Section):
    """Causal language models, pruned for their own loss and adapted to a text; nothing by default."""

    models: Annotated[Models, EMPTY] = Field(
        {}, description="name -> causal language model; a name that is also in models must be the same model there"
    )
    max_length: Integer = Field(64, ge=2, description="tokens in a chunk of text")
    batch_size: Positive = Field(32, description="chunks of text in a batch of an evaluation")
    pruning: PruningExperiment = PruningExperiment()
    adaptation: AdaptationExperiment = AdaptationExperiment()


class Tuning(Section):
    """Grid of the search for learning rate and epochs, which are compared on validation."""

    learning_rates: Several[LearningRate] = Field([0.0002, 0.0005, 0.001], description="learning rates to try")
    epochs: Several[Epochs] = Field([3, 5], description="numbers of epochs to try")
    seed: Natural = Field(100, description="seed of the search, not used by the study itself")


class StudyConfig(Section):
    """One study is every method on every cell, where a cell is a model, a task and a seed."""

    extends: str | MISSING = optional(
        "path of a config that this one changes: sections are merged, lists replaced, null removes a key"
    )
    study: Name = Field(
        description='lower-case letters, digits, ".", "_" and "-" that name the study; results go to results/<study>'
    )
    seeds: Several[Natural] = Field(description="seeds of the cells; each fine-tunes every model on every task once")
    draws: Positive = Field(3, description="number of draws of the methods that choose at random")
    kept_shares: Several[Budget] = Field(
        [0.02, 0.05, 0.10, 0.25, 0.50, 0.75], description="how much of each row is kept, one entry per budget"
    )
    methods: Several[MethodName] = Field(description=f"methods to compare; {CONTROLS}")
    scores_only: Unique[MethodName] = Field(
        [],
        description="methods whose stored files are removed after scoring, for studies of large models (the tables "
        "keep hash and size); none by default",
    )
    keep_files: Literal["all", "read"] = Field(
        "all",
        description="what stays on the disk of large files; read: of compressed models those that a later step reads, "
        "and fine-tuned models only until their cell is finished, except on the first two tasks with the first seed",
    )
    trained_on: TrainedOn = TrainedOn()
    inference: Inference = Inference()
    checks: Checks = Checks()
    spread: Spread = Spread()
    timing: Timing = Timing()
    corpus: Corpus | MISSING = MISSING
    tasks: Annotated[Tasks, EMPTY] = Field(min_length=1, description=f"name -> classification task; {NAMED}")
    models: Annotated[Models, EMPTY] = Field(min_length=1, description=f"name -> model; {NAMED}")
    pretraining: Pretraining = Pretraining()
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where to compute; auto takes a GPU if torch finds one; STUDY_DEVICE overrides it"
    )
    jobs_per_gpu: int = Field(
        1,
        ge=1,
        le=8,
        description="how many jobs share a GPU, if its memory and that of the machine allow it; each needs a core; "
        "STUDY_JOBS_PER_GPU overrides it",
    )
    finetuning: Finetuning = Finetuning()
    evaluation: Evaluation = Evaluation()
    suggestion: SuggestionSearch = SuggestionSearch()
    kenviz: Kenviz = Kenviz()
    language_modelling: LanguageModelling = LanguageModelling()
    tuning: Tuning = Tuning()


def study_model(methods: Mapping[str, Method], variants: Iterable[str] = ()) -> type[StudyConfig]:
    """`StudyConfig` with a section of settings for every registered method, and for some selections with bits."""
    doc, settings = MethodSettings.__doc__, {}
    methods = dict(methods) | {name: methods[name] for name in variants}
    for options in dict.fromkeys(method.options_model for method in methods.values()):
        settings[options] = create_model(f"{options.__name__}Settings", __base__=(MethodSettings, options), __doc__=doc)
    by_method = create_model(
        "SettingsByMethod",
        __base__=Section,
        __doc__="Method -> settings that differ from its defaults; for language models only its options are used.",
        **{name: (settings[method.options_model] | MISSING, MISSING) for name, method in methods.items()},
    )
    doc, base = StudyConfig.__doc__, StudyConfig
    return create_model("StudyOfMethods", __base__=base, __doc__=doc, method_settings=(by_method, by_method()))
