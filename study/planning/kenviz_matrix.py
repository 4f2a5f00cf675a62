"""Check of the config key kenviz.matrix against the matrices of the model, before anything is computed."""

from pathlib import Path
from typing import TYPE_CHECKING

from ken.errors import UserError
from ken.viz import matrix_kinds
from study.definition.paths import Paths
from study.definition.study import Study

if TYPE_CHECKING:  # importing transformers takes seconds, and only studies with the key need it
    from transformers import PreTrainedConfig


def check(study: Study, paths: Paths) -> None:
    """Refuse a kenviz.matrix that does not fit exactly one kind of matrix of the model.

    A model of the hub is checked when it is imported.

    Raises:
        UserError: the kinds of matrices that the model has.
    """
    part = study.config["kenviz"].get("matrix")
    if part is None:
        return
    name = study.config["kenviz"]["model"]
    section, folder = study.models[name], study.checkpoint(name, paths) or paths.pretrained(name)
    if (folder / "config.json").exists():
        check_folder(folder, part)
    elif section["source"] == "pretraining":
        from study.models.architectures import ARCHITECTURES

        settings = study.config["pretraining"]
        build = ARCHITECTURES[section["architecture"]].config
        _check_config(build(section["size"], settings["vocabulary"], settings["max_length"], 0), part)


def check_folder(folder: Path, part: str) -> None:
    """Refuse a part of a name that does not fit exactly one kind of matrix of the model in a folder.

    Raises:
        UserError: the kinds of matrices that the model has.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError):
        return  # the import of the model says what is wrong with it
    _check_config(config, part)


def _check_config(config: "PreTrainedConfig", part: str) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    try:
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config)
    except ValueError:
        return  # the fine-tuning says that there is no classifier of this architecture
    body = f"{model.base_model_prefix}."
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    kinds = matrix_kinds.kinds_of({name: shape for name, shape in shapes.items() if name.startswith(body)} or shapes)
    try:
        matrix_kinds.matching_kind(kinds, part, shapes)
    except ValueError as error:
        raise UserError(f"config key kenviz.matrix: {error}") from None
