"""A study's configuration: read, checked, and completed with defaults."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml
from pydantic import ValidationError

from baselines import Method
from baselines.base import WIDTHS, selections, unknown_method
from baselines.options import shown
from ken.errors import UserError
from study.definition import checks
from study.definition.sections import study_model
from study.definition.sentences import dotted, sentence


def schema(methods: Mapping[str, Method]) -> dict:
    """JSON schema of a config, with the names and options of the registered methods."""
    described = study_model(methods).model_json_schema()
    names: list[dict] = [{"enum": sorted(methods), "description": "a registered method"}]
    if coded := selections(methods):
        pattern = f"^({'|'.join(coded)})-({'|'.join(map(str, WIDTHS))})bit$"
        names.append({"pattern": pattern, "description": "a selection with the number of bits of its kept updates"})
        settings = described["$defs"]["SettingsByMethod"]
        settings["patternProperties"] = {pattern: settings["properties"][coded[0]]}
    described["$defs"]["MethodName"]["anyOf"] = names
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | described


def load(raw: dict, methods: Mapping[str, Method], sources: bool = True, unused: bool = False) -> dict:
    """Check a configuration and fill in its defaults.

    Args:
        raw: the configuration as read from YAML; it is not changed.
        methods: the registered methods by name.
        sources: whether data files and model folders must exist.
        unused: whether `raw` may have settings of methods that are not run, as the config that it extends always may.

    Returns:
        A new dict with every default written out, including those of each model and task, and without the settings of
        methods that are not run.

    Raises:
        UserError: one sentence with the full path of the key, its value and what is allowed.

    Example:
        >>> from baselines import METHODS
        >>> load({"study": "s", "seeds": [0], "sedes": [1]}, METHODS)
        Traceback (most recent call last):
        ken.errors.UserError: config key sedes is not known here. Did you mean "seeds"?
    """
    if not isinstance(raw, dict):
        raise UserError(f"the config is {shown(raw)}, but must be a section with keys.")
    extended = _extended(raw)
    model = study_model(methods, _coded_methods(extended.get("method_settings"), methods))
    try:
        study = model.model_validate(extended, context={"methods": methods, "sources": sources})
    except ValidationError as error:
        raise UserError(f"config key {sentence(error.errors(), model.model_json_schema())}") from None
    config = study.model_dump()
    checks.check_unused_settings(config, () if unused else raw.get("method_settings") or ())
    checks.check(config, methods)
    config["kenviz"] = checks.pictured(config, methods)
    checks.check_scores_only(config)
    return config


def _coded_methods(settings: object, methods: Mapping[str, Method]) -> list[str]:
    """Selections with a number of bits that have settings of their own.

    Raises:
        UserError: a selection has no such number of bits.
    """
    names = [name for name in settings if isinstance(name, str)] if isinstance(settings, dict) else []
    for name in names:
        if name not in methods and name.rpartition("-")[0] in selections(methods):
            raise UserError(f"config key method_settings.{name} {unknown_method(name, methods)}")
    return [name for name in names if name in methods and name not in set(methods)]


def read(path: str | Path, methods: Mapping[str, Method]) -> dict:
    """`load` a YAML file.

    Raises:
        UserError: there is no such file, it is not YAML, or `load` refuses it.
    """
    return load(_read_yaml(path), methods)


def _read_yaml(path: str | Path) -> dict:
    check_keys(path)
    raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    return raw if raw is not None else {}


def check_keys(path: str | Path) -> None:
    """Refuse a YAML file in which a section has a key twice: YAML readers would silently use the last one.

    Raises:
        UserError: the key and both lines; or there is no such file, or it is not YAML.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        if Path(path).suffix == ".json":
            text = text.replace("\t", " ")  # YAML allows no tabs between values
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        repeated = next(_repeated_keys(root, (), set()), None)
    except OSError as error:
        raise UserError(f"cannot read the config {path}: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}.") from None
    if repeated:
        key, first, second = repeated
        lines = f"line {first}" if first == second else f"lines {first} and {second}"
        raise UserError(f"{path} has the key {key} twice, on {lines}: keep one of them.")


def _repeated_keys(node: yaml.Node | None, path: tuple, seen: set[int]) -> Iterator[tuple[str, int, int]]:
    """Dotted path and both lines of every key that its section has twice."""
    if not isinstance(node, yaml.CollectionNode) or id(node) in seen:  # an alias stands for a node seen before
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, entry in enumerate(node.value):
            yield from _repeated_keys(entry, (*path, index), seen)
        return
    lines: dict[tuple, int] = {}
    for key, value in node.value:
        name, line = (key.tag, str(key.value)), key.start_mark.line + 1
        if name in lines:
            yield dotted((*path, key.value)), lines[name], line
        lines[name] = line
        yield from _repeated_keys(value, (*path, key.value), seen)


def _extended(raw: dict) -> dict:
    """The config merged into the config that its key extends names."""
    changes = {key: value for key, value in raw.items() if key != "extends"}
    path = raw.get("extends")
    if path is None:
        return changes
    if not isinstance(path, str) or not Path(path).is_file():
        raise UserError(f"config key extends is {shown(path)}, but must be the path of a config, from {Path.cwd()}.")
    base = _read_yaml(path)
    if "extends" in base:
        raise UserError(f"config key extends is {shown(path)}, which extends another config: name that one instead.")
    return _merged(base, changes)


def _merged(base: object, over: object) -> object:
    """Merge sections key by key. Any other value of `base` is replaced by that of `over`; null removes a key."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    merged = base | {key: _merged(base.get(key), value) for key, value in over.items()}
    return {key: value for key, value in merged.items() if value is not None}
