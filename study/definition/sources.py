"""Config entries that name their source: tasks, models, and texts for language models."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import MISSING, AfterValidator, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError, PydanticKnownError

from baselines.options import Above0, Integer, Natural, Number, Positive, Section, Several, Share, optional, shown
from study.definition.paths import without_split

SOURCE = "where it comes from"


def _existing(path: str, info: ValidationInfo) -> str:
    if info.context["sources"] and not Path(path).exists():
        raise PydanticCustomError("no_such_path", "does not exist")
    return path


def _existing_data(path: str, info: ValidationInfo) -> str:
    _existing(str(without_split(path)[0]), info)
    return path


def _checkpoint(path: str, info: ValidationInfo) -> str:
    if info.context["sources"] and not Path(path, "config.json").is_file():
        raise ValueError(f"is {shown(path)}, which has no config.json: name a folder in the Hugging Face layout.")
    return path


def _kept(budget: float | int) -> float | int:
    if not (0 < budget < 1 or (isinstance(budget, int) and budget >= 1)):
        raise PydanticCustomError("budget", "neither a share nor a number of entries")
    return budget


def _matching(pattern: str, description: str) -> object:
    return Field(pattern=rf"^{pattern}$(?!\n)", description=description)


NAME = 'lower-case letters, digits, ".", "_" and "-", the first a letter or digit'
REPOSITORY = "the name of a repository on the Hugging Face hub, such as google-bert/bert-base-uncased"
REVISION = "a commit, tag or branch of the repository; only a commit never changes, and manifests record it"
PART = "[A-Za-z0-9][A-Za-z0-9._-]*"  # of the name of a repository
ExistingPath = Annotated[str, AfterValidator(_existing)]
DataPath = Annotated[str, AfterValidator(_existing_data)]  # may name a split of a folder: "data/saved#train"
Name = Annotated[str, _matching("[a-z0-9][a-z0-9._-]*", NAME)]
Repository = Annotated[str, _matching(rf"(?!.*(--|\.\.)){PART}(/{PART})?", REPOSITORY)]
Revision = Annotated[str, _matching(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/-]*", REVISION)]
Epochs = Annotated[Positive, Field(description="passes over the training examples")]
BatchSize = Annotated[Positive, Field(description="examples in a batch")]
KEPT = "a share between 0 and 1 (both excluded), or a whole number of entries per row from 1"
ANY_OF = {"anyOf": [{"exclusiveMinimum": 0, "exclusiveMaximum": 1}, {"type": "integer", "minimum": 1}]}
Budget = Annotated[Number, AfterValidator(_kept), Field(description=KEPT, json_schema_extra=ANY_OF)]
LearningRate = Annotated[Above0, Field(description="peak of the learning rate")]
RandomInitLearningRate = Annotated[
    Above0, Field(description="peak of the learning rate from random initialisation; by default learning_rate")
]


class HubSource(Section):
    """A repository of the Hugging Face hub."""

    source: Literal["hub"] = Field(description=SOURCE)
    repository: Repository
    revision: Revision


class HubData(HubSource):
    """The Parquet files of a data set on the Hugging Face hub."""

    config: str | MISSING = optional("the configuration of the data set, if it has several", min_length=1)


class Task(Section):
    """How compressed models are scored on a task; the task itself does not depend on it."""

    scored_texts: Positive | MISSING = optional(
        "largest number of test texts on which compressed models are scored, a stratified sample that is the same for "
        "all of them (docs/power.md), and of validation texts for suggestion; by default all"
    )
    kept_shares: Several[Budget] | MISSING = optional(
        "budgets at which methods that keep a part of each row and do not train are run on this task, of those that "
        "they have; by default all"
    )


class DocstringTask(Task):
    """Text and labels from the docstrings of the corpus."""

    source: Literal["docstrings"] = Field(description=SOURCE)
    label: Literal["library", "topic"] = Field(
        description="library (which package is described) or topic (which part of one package)"
    )
    package: str | MISSING = optional("package whose parts are the classes, for the label topic", validate_default=True)
    classes: Several[str] = Field(min_length=2, description="packages, or parts of the package")
    train: Positive = Field(description="largest number of training examples")
    validation: Positive = Field(description="largest number of validation examples")
    test: Positive = Field(description="largest number of test examples")

    @field_validator("package")
    @classmethod
    def _is_set_for_topics(cls, package: str, info: ValidationInfo) -> str:
        if package is MISSING and info.data.get("label") == "topic":
            raise PydanticKnownError("missing")
        return package


class Limits(Section):
    """Largest numbers of examples."""

    train: Positive | MISSING = optional("of training examples")
    validation: Positive | MISSING = optional("of validation examples")
    test: Positive | MISSING = optional("of test examples")


class ColumnTask(Task):
    """Text and labels from two columns of a table."""

    text: str = Field(description="name of the column with the text")
    label: str = Field(description="name of the column with the label, or with classes whose names are used")
    validation_share: Share = Field(0.1, description="share of train that becomes validation if none is named")
    seed: Natural = Field(0, description="seed with which that share is drawn, and the examples of a limited split")
    limits: Limits | MISSING = optional("largest numbers of examples, drawn at random; by default all are used")

    @field_validator("label")
    @classmethod
    def _is_another_column(cls, label: str, info: ValidationInfo) -> str:
        if label == info.data.get("text"):
            raise ValueError(f"names the same column as text ({shown(label)}): name the column with the label.")
        return label


class FileTask(ColumnTask):
    """Text and labels from CSV, TSV, JSONL or Parquet files or folders saved by the datasets library."""

    source: Literal["files"] = Field(description=SOURCE)
    train: DataPath = Field(description="file or folder of the training examples")
    validation: DataPath | MISSING = optional(
        "file or folder of the validation examples; by default, part of train is used"
    )
    test: DataPath = Field(description="file or folder of the test examples")


class Splits(Section):
    """Split of the data set for each role; without test, the validation split is the test set; without validation, part
    of train is used."""

    train: str = Field("train", description="name of the split of the training examples")
    validation: str | MISSING = optional("name of the split of the validation examples")
    test: str | MISSING = optional(
        "name of the split of the test examples, which must have labels", validate_default=True
    )

    @field_validator("validation", "test")
    @classmethod
    def _is_another_split(cls, split: str, info: ValidationInfo) -> str:
        if split is MISSING:
            if info.data.get("validation") is MISSING:
                raise PydanticKnownError("missing")
        elif split in info.data.values():
            raise ValueError(f"is {shown(split)}, which has another role: name another split or leave it out.")
        return split


class HubTask(ColumnTask, HubData):
    """Text and labels from the Parquet files of a data set on the Hugging Face hub."""

    splits: Splits = Field({}, validate_default=True)


class Model(Section):
    """Settings of the section finetuning that a model may override."""

    epochs: Epochs | MISSING = MISSING
    batch_size: BatchSize | MISSING = MISSING
    learning_rate: LearningRate | MISSING = MISSING
    random_init_learning_rate: RandomInitLearningRate | MISSING = MISSING


class DirectoryModel(Model):
    """A local folder in the Hugging Face layout."""

    source: Literal["directory"] = Field(description=SOURCE)
    path: Annotated[ExistingPath, AfterValidator(_checkpoint)] = Field(
        description="folder with config.json and model.safetensors"
    )


class HubModel(Model, HubSource):
    """A model of the Hugging Face hub whose weights are in safetensors."""


class Size(Section):
    """Width and depth of the model."""

    hidden_size: Integer = Field(ge=2, description="width of the layers")
    layers: Positive = Field(description="number of layers")
    heads: Positive = Field(description="attention heads, a divisor of hidden_size")
    intermediate_size: Positive | MISSING = optional(
        "width of the feed-forward layers (BLOOM's is four times hidden_size)"
    )
    embedding_size: Positive | MISSING = optional("width of ELECTRA's embeddings, by default half of hidden_size")

    @field_validator("heads")
    @classmethod
    def _divide_the_width(cls, heads: int, info: ValidationInfo) -> int:
        width = info.data.get("hidden_size", heads)
        if width % heads:
            raise ValueError(f"is {heads}, which does not divide hidden_size {width}.")
        return heads


class PretrainingModel(Model):
    """A small model that this study pre-trains on the corpus."""

    source: Literal["pretraining"] = Field(description=SOURCE)
    architecture: Literal["bert", "bloom", "deberta", "distilbert", "electra", "ernie"] = Field(
        description="family of the model"
    )
    size: Size
    checkpoint: ExistingPath | MISSING = optional(
        "folder of a checkpoint that this pre-training made earlier; it is used instead of training again"
    )


class Words(Section):
    """How much of a text is used, in whole documents."""

    train_words: Integer = Field(100_000, ge=100, description="largest number of words of training text")
    test_words: Integer = Field(300_000, ge=100, description="largest number of words of held-out text")


class DocstringText(Words):
    """Docstring prose of packages of the corpus, one document per source file."""

    source: Literal["docstrings"] = Field(description=SOURCE)
    packages: Several[str] = Field(description="packages of the corpus")
    test_words: Integer = Field(30_000, ge=100, description="largest number of words of held-out text")


class FileText(Words):
    """Text files in UTF-8."""

    source: Literal["files"] = Field(description=SOURCE)
    train: ExistingPath = Field(description="file with the training text")
    validation: ExistingPath | MISSING = optional(
        "file with the validation text; by default, every tenth document of train is used"
    )
    test: ExistingPath = Field(description="file with the held-out text")


class HubText(Words, HubData):
    """Text from the Parquet files of a data set on the Hugging Face hub."""

    text: str = Field(description="name of the column with the text")


Tasks = dict[Name, Annotated[DocstringTask | FileTask | HubTask, Field(discriminator="source")]]
Models = dict[Name, Annotated[DirectoryModel | PretrainingModel | HubModel, Field(discriminator="source")]]
Text = Annotated[DocstringText | FileText | HubText, Field(discriminator="source")]
