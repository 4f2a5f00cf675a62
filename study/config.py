"""The study's configuration: defaults filled in, mistakes named in one sentence.

All names, types, ranges and defaults come from config/schema.yaml; this module only knows how to apply a
schema and how to say in plain words what is wrong. What a schema cannot say (names that refer to each other)
is in `_cross_checks`.
"""

import argparse
import copy
import json
import math
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator, FormatChecker, ValidationError, validators

from baselines import METHODS, Method
from baselines.training import TrainedMethod
from ken.errors import UserError, did_you_mean
from study.definition import method_settings
from study.running.workflow import run

SCHEMA = Path(__file__).parent.parent / "config" / "schema.yaml"
METHOD_SECTIONS = ("inference", "spread", "suggestion")  # sections with a list of methods of the study
CAUSAL = ("bloom",)  # architectures of this study's own pre-training that are language models
SHOWN = 60  # characters of a wrong value that a message repeats
TYPES = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a section with keys",
    "null": "empty",
}
# What is checked first: a misspelled key explains most of the other problems around it.
ORDER = {"additionalProperties": 0, "type": 1, "required": 3}


def schema(methods: Collection[str]) -> dict:
    """The schema of config/schema.yaml with the names of the registered methods put in."""
    loaded = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    keys = loaded["properties"]
    listed = [keys[section]["properties"]["methods"]["items"] for section in METHOD_SECTIONS]
    listed += [keys[name]["items"] for name in ("methods", "scores_only")]
    for method in (keys["kenviz"]["properties"]["method"], *listed):
        method["enum"] = sorted(methods)
    adaptation = keys["language_modelling"]["properties"]["adaptation"]["properties"]["methods"]
    adaptation["items"]["enum"] = sorted(methods)
    keys["method_settings"]["propertyNames"] = {"enum": sorted(methods), "description": "name of a registered method"}
    return loaded


def load(raw: dict, methods: Mapping[str, Method], sources: bool = True) -> dict:
    """Check a configuration and fill in its defaults.

    Args:
        raw: the configuration as YAML gives it; it is not changed.
        methods: the registered methods by name.
        sources: whether data files and model folders have to be there.

    Returns:
        A new dict that satisfies the schema, every default written out, also those of each model and task.

    Raises:
        UserError: one sentence with the full path of the key, what was found and what may stand there.

    Example:
        >>> load({"study": "s", "seeds": [0], "sedes": [1]}, METHODS)
        Traceback (most recent call last):
        ken.errors.UserError: config key sedes is not known here. Did you mean "seeds"?
    """
    if not isinstance(raw, dict):
        raise UserError(f"the config is {_shown(raw)}, but must be a section with keys.")
    _check_keys(raw, [])
    root = schema(methods)
    config = _complete(_extended(copy.deepcopy(raw)), root, root)
    if problems := sorted(_problems(config, root, sources), key=lambda error: ORDER.get(error.validator, 2)):
        raise UserError(f"config key {_sentence(problems[0])}")
    _cross_checks(config)
    _check_method_settings(config, methods)
    _check_spread(config, methods)
    config["kenviz"] = _pictured(config, methods)
    _check_scores_only(config)
    if sources:
        _check_folders("models", config["models"])
        _check_folders("language_modelling.models", config["language_modelling"]["models"])
    return config


def read(path: str | Path, methods: Mapping[str, Method]) -> dict:
    """`load` a YAML file.

    Raises:
        UserError: there is no such file, it is not YAML, or `load` refuses it.
    """
    return load(_read_yaml(path), methods)


def _read_yaml(path: str | Path) -> dict:
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the config {path}: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}.") from None
    return raw if raw is not None else {}


def _extended(raw: dict) -> dict:
    """The config with what it takes over from the one that its key extends names."""
    base = raw.pop("extends", None)
    if base is None:
        return raw
    if not isinstance(base, str) or not Path(base).is_file():
        raise UserError(f"config key extends is {_shown(base)}, but must be the path of a config, from {Path.cwd()}.")
    found = _read_yaml(base)
    _check_keys(found, [])
    if "extends" in found:
        raise UserError(f"config key extends is {_shown(base)}, which extends another: name the last of them.")
    return _merged(found, raw)


def _merged(base: object, over: object) -> object:
    """Sections of both, what `over` says first; anything but a section is replaced, and null takes a key away."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    merged = base | {key: _merged(base.get(key), value) for key, value in over.items()}
    return {key: value for key, value in merged.items() if value is not None}


def _check_keys(value: object, path: list) -> None:
    """Refuse keys that YAML reads as something other than text, e.g. ``1:`` or ``no:``."""
    if isinstance(value, dict):
        for key, entry in value.items():
            if not isinstance(key, str):
                where = _dotted([*path, str(key)])
                raise UserError(f"config key {where} is read as {_shown(key)}, not as text: put quotes around it.")
            _check_keys(entry, [*path, key])
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            _check_keys(entry, [*path, index])


def _resolved(node: dict, root: dict) -> dict:
    """A schema node with its ``$ref`` followed; what stands beside the reference wins."""
    while "$ref" in node:
        target = root
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
    return node


def _branches(node: dict, root: dict) -> dict[str, dict]:
    """source -> schema of that kind of entry, for a node that offers several kinds."""
    kinds = [_resolved(branch, root) for branch in node["oneOf"]]
    return {kind["properties"]["source"]["const"]: kind for kind in kinds}


def _chosen(node: dict, root: dict, value: object) -> dict | None:
    """The schema of an entry's kind, None where its source is missing or unknown."""
    source = value.get("source") if isinstance(value, dict) else None
    return _branches(node, root).get(source) if isinstance(source, str) else None


def _complete(value: object, node: dict, root: dict) -> object:
    """Fill in defaults and read numbers that YAML 1.1 takes for text (``1e-3``), all the way down."""
    node = _resolved(node, root)
    if "oneOf" in node:
        node = _chosen(node, root, value) or {}
    kind = node.get("type")
    if kind in ("integer", "number"):
        return _number(value, kind)
    if kind == "object" and value is None:
        value = {}  # a section whose lines are all commented out
    if kind == "object" and isinstance(value, dict):
        properties = node.get("properties", {})
        for key, entry in properties.items():
            if key not in value and "default" in _resolved(entry, root):
                value[key] = copy.deepcopy(_resolved(entry, root)["default"])
        others = node.get("additionalProperties") or {}
        return {key: _complete(entry, properties.get(key, others), root) for key, entry in value.items()}
    if kind == "array" and isinstance(value, list):
        return [_complete(entry, node.get("items", {}), root) for entry in value]
    return value


def _number(value: object, kind: str) -> object:
    """`value` as a number of the kind where that is what it says, otherwise unchanged."""
    if isinstance(value, str):
        try:
            value = int(value) if value.strip().lstrip("+-").isdigit() else float(value)
        except ValueError:
            return value
    if kind == "integer" and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _is_number(_: object, value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_integer(_: object, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)  # 1.0 is a share, not one entry


_FORMATS = FormatChecker(formats=())


@_FORMATS.checks("existing-path")
def _exists(value: object) -> bool:
    return not isinstance(value, str) or Path(value.partition("#")[0]).exists()


_TYPES = Draft202012Validator.TYPE_CHECKER.redefine_many({"number": _is_number, "integer": _is_integer})
_Validator = validators.extend(Draft202012Validator, type_checker=_TYPES)


def _problems(config: dict, root: dict, sources: bool) -> Iterator[ValidationError]:
    """All problems; for an entry of several kinds, those of the kind that its source names."""
    validator = _Validator(root, format_checker=_FORMATS if sources else None)
    waiting: list[ValidationError] = list(validator.iter_errors(config))
    while waiting:
        error = waiting.pop(0)
        if error.validator != "oneOf":
            yield error
            continue
        kinds = list(_branches({"oneOf": error.validator_value}, root).values())
        kind = _chosen({"oneOf": error.validator_value}, root, error.instance)
        if kind is None:
            yield _unknown_kind(error, kinds)
        else:
            index = kinds.index(kind)
            waiting += [inner for inner in error.context if inner.schema_path[0] == index]


def _unknown_kind(error: ValidationError, kinds: list[dict]) -> ValidationError:
    """The problem of an entry whose kind cannot be told, put as that of a plain schema."""
    known = {key: entry for kind in kinds for key, entry in kind["properties"].items()}
    sources = [kind["properties"]["source"]["const"] for kind in kinds]
    description = known["source"]["description"]
    plain = {
        "type": "object",
        "additionalProperties": False,
        "required": ["source"],
        "properties": {key: {} for key in known}
        | {"source": {"enum": sources, "description": f"{description} ({' or '.join(sources)})"}},
    }
    problem = min(_Validator(plain).iter_errors(error.instance), key=lambda e: ORDER.get(e.validator, 2))
    problem.path.extendleft(reversed(error.absolute_path))
    return problem


def _sentence(error: ValidationError) -> str:
    """What is wrong, beginning with the path of the key."""
    path, value, wanted = list(error.absolute_path), error.instance, error.validator_value
    where, found = _dotted(path), _shown(value)
    meaning = error.schema.get("description", "") if isinstance(error.schema, dict) else ""
    match error.validator:
        case "additionalProperties":
            known = error.schema["properties"]
            key = next(key for key in value if key not in known)
            return f"{_dotted([*path, key])} is not known here.{did_you_mean(key, known)}"
        case "required":
            key = next(key for key in wanted if key not in value)
            return f"{_dotted([*path, key])} is missing{_described(error, key)}."
        case "type":
            kinds = [wanted] if isinstance(wanted, str) else wanted
            expected = " or ".join(TYPES[kind] for kind in kinds)
            if expected == "text" and not isinstance(value, dict | list):
                expected = "text in quotes"  # YAML reads `no` as false and `5` as a number
            return f"{where} is {found}, but must be {expected}{f' ({meaning})' if meaning else ''}."
        case "enum" | "const":
            valid = wanted if error.validator == "enum" else [wanted]
            return f"{where} is {found}, which is not known here.{did_you_mean(str(value), valid)}"
        case "minItems" | "minProperties":
            return f"{where} has {len(value)} entries, but needs at least {wanted} ({meaning})."
        case "uniqueItems":
            twice = next(entry for i, entry in enumerate(value) if entry in value[:i])
            return f"{where} names {_shown(twice)} twice: take one out."
        case "format":
            return f"{where} is {found}, which does not exist, seen from {Path.cwd()}: {meaning}."
        case _ if "propertyNames" in error.schema_path:
            return f"{where} has the name {found}, but a name must be {meaning}."
        case _:
            return f"{where} is {found}, but must be {_range(error) or meaning}."


def _range(error: ValidationError) -> str:
    """The limit that a number broke."""
    words = {
        "minimum": "at least",
        "maximum": "at most",
        "exclusiveMinimum": "greater than",
        "exclusiveMaximum": "less than",
    }
    return f"{words[error.validator]} {error.validator_value}" if error.validator in words else ""


def _described(error: ValidationError, key: str) -> str:
    description = error.schema.get("properties", {}).get(key, {}).get("description")
    return f": {description}" if description else ""


def _dotted(path: Iterable[str | int]) -> str:
    """A key path as people write it, e.g. ``models.bert.epochs`` or ``seeds[1]``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def _shown(value: object) -> str:
    """A value as YAML's JSON form, cut to a length that fits into a sentence."""
    if value is None:
        return "empty"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _cross_checks(config: dict) -> None:
    """Names and numbers of a valid config that have to fit each other."""
    _check_corpus(config)
    _check_seeds(config)
    _check_trained(config)
    for key, known in {"model": config["models"], "task": config["tasks"]}.items():
        if (chosen := config["kenviz"].get(key)) not in (None, *known):
            found = f'"{chosen}", which {key}s does not name'
            raise UserError(f"config key kenviz.{key} is {found}.{did_you_mean(chosen, known)}")
    for name, task in config["tasks"].items():
        if task["source"] != "docstrings" and task["text"] == task["label"]:
            both = f"tasks.{name}.label names the same column as tasks.{name}.text ({_shown(task['text'])})"
            raise UserError(f"config key {both}: name the column with the label.")
        if task["source"] == "hub":
            _check_splits(f"config key tasks.{name}.splits", task["splits"])
    _check_models("models", config["models"])
    _check_models("language_modelling.models", config["language_modelling"]["models"])
    _check_language(config)


def _check_method_settings(config: dict, methods: Mapping[str, Method]) -> None:
    """What the config says of a method means something to it."""
    for name, said in config["method_settings"].items():
        key = f"config key method_settings.{name}"
        updated = said.get("updates", "correlated" if said.get("costs", "obs") == "obs" else "none") != "none"
        if said.get("low_rank") and not updated:
            found = f"{key}.low_rank is {said['low_rank']}, but nothing is updated"
            raise UserError(f"{found}: set updates or leave it out.")
        if "draws" in said and not methods[name].stochastic:
            raise UserError(f"{key}.draws is {said['draws']}, but {name} draws nothing at random: leave it out.")
        if "rate_factors" in said and not isinstance(methods[name], TrainedMethod):
            raise UserError(f"{key}.rate_factors is {said['rate_factors']}, but {name} does not train: leave it out.")


def _check_spread(config: dict, methods: Mapping[str, Method]) -> None:
    """The methods whose kept entries are looked at are run at that share."""
    share = config["spread"]["kept_share"]
    for index, name in enumerate(config["spread"]["methods"]):
        if share not in (budgets := method_settings.budgets_in(config, methods[name])):
            key, listed = f"config key spread.methods[{index}] is {name}", ", ".join(map(str, budgets))
            raise UserError(f"{key}, which is not run at spread.kept_share ({share}), but at {listed}.")


def _pictured(config: dict, methods: Mapping[str, Method]) -> dict:
    """Section kenviz with what it leaves open: the first model and task, and a method that is run at the share."""
    chosen, shares = config["kenviz"], config["kept_shares"]
    first = {"model": next(iter(config["models"])), "task": next(iter(config["tasks"]))}
    share = chosen.get("kept_share", 0.25 if 0.25 in shares else shares[-1])
    selecting = [name for name in config["methods"] if methods[name].unit == "share"]
    shown = [name for name in selecting if share in method_settings.budgets_in(config, methods[name])]
    if not shown:
        key = f"config key kenviz.kept_share is {share}"
        raise UserError(f"{key}, at which no method is run that keeps a share: name a share that one is run at.")
    if (name := chosen.get("method")) not in (None, *shown):
        key, listed = f"config key kenviz.method is {_shown(name)}", ", ".join(shown)
        raise UserError(f"{key}, which is not run at its kept_share ({share}): name one that is ({listed}).")
    method = chosen.get("method", "ken" if "ken" in shown else shown[-1])
    return first | {"kept_share": share, "method": method} | chosen


def _check_scores_only(config: dict) -> None:
    """Methods of the study are named, and no stored file is removed that a later step reads."""
    _check_named("scores_only", config["scores_only"], "methods", config["methods"])
    readers = {name: config[name]["methods"] for name in ("inference", "spread")}
    readers |= {"kenviz": [config["kenviz"]["method"]]}
    for index, method in enumerate(config["scores_only"]):
        if used := [name for name, methods in readers.items() if method in methods]:
            key = f"config key scores_only[{index}] is {_shown(method)}"
            raise UserError(f"{key}, whose stored files {used[0]} reads: take it out of one of the two.")


def _check_models(section: str, models: dict) -> None:
    """Sizes and folders of models."""
    for name, model in models.items():
        key = f"config key {section}.{name}"
        if "size" in model and model["size"]["hidden_size"] % model["size"]["heads"]:
            size = model["size"]
            found = f"{size['heads']}, which does not divide hidden_size {size['hidden_size']}"
            raise UserError(f"{key}.size.heads is {found}.")


def _check_folders(section: str, models: dict) -> None:
    """Models from folders are in the Hugging Face layout."""
    for name, model in models.items():
        if "path" in model and not Path(model["path"], "config.json").is_file():
            found = f"{_shown(model['path'])}, which has no config.json"
            raise UserError(f"config key {section}.{name}.path is {found}: name a folder in the Hugging Face layout.")


def _check_language(config: dict) -> None:
    """Language models have text, its packages are in the corpus, and a name means one model."""
    section = config["language_modelling"]
    texts = {name: section[name]["text"] for name in ("pruning", "adaptation") if "text" in section[name]}
    if section["models"] and not texts:
        key = "config key language_modelling.pruning.text"
        raise UserError(f"{key} is missing, and so is adaptation.text: the models need a text.")
    if texts and not section["models"]:
        raise UserError("config key language_modelling.models is empty: name a causal language model.")
    for name, model in section["models"].items():
        key = f"config key language_modelling.models.{name}"
        if config["models"].get(name, model) != model:
            raise UserError(f"{key} differs from models.{name}: give one of them another name.")
        if model.get("architecture", "bloom") not in CAUSAL:
            found = _shown(model["architecture"])
            raise UserError(f"{key}.architecture is {found}, but language models here are {', '.join(CAUSAL)}.")
    packages = config.get("corpus", {}).get("packages", [])
    for name, text in texts.items():
        key = f"language_modelling.{name}.text.packages"
        _check_named(key, text.get("packages", []), "corpus.packages", packages)


def _check_splits(key: str, splits: dict) -> None:
    """A test split is named, or one for validation that serves as it, and none of them twice."""
    if "test" not in splits and "validation" not in splits:
        raise UserError(f"{key}.test is missing: name of the split of the test examples, which must have labels.")
    named = list(splits.values())
    for index, (role, split) in enumerate(splits.items()):
        if split in named[:index]:
            raise UserError(f"{key}.{role} is {_shown(split)} like one before it: name another split or leave it out.")


def _check_seeds(config: dict) -> None:
    """Seeds with a random-init arm are seeds of the study."""
    for seed in config["finetuning"].get("random_init_seeds", []):
        if seed not in config["seeds"]:
            listed = ", ".join(map(str, config["seeds"]))
            key = "config key finetuning.random_init_seeds"
            raise UserError(f"{key} names {seed}, but must name some of seeds ({listed}).")


def _check_trained(config: dict) -> None:
    """Cells of methods that train are cells of the study; what is measured or searched is a method of the study."""
    for axis in ("models", "tasks", "seeds"):
        _check_named(f"trained_on.{axis}", config["trained_on"].get(axis, []), axis, config[axis])
    for section in METHOD_SECTIONS:
        _check_named(f"{section}.methods", config[section]["methods"], "methods", config["methods"], ("full", "none"))


def _check_named(key: str, found: Iterable, section: str, names: Collection, always: Collection = ()) -> None:
    """All entries of a list are among the names of a section, or those that every study has."""
    for index, entry in enumerate(found):
        if entry not in names and entry not in always:
            near = did_you_mean(str(entry), map(str, names))
            raise UserError(f"config key {key}[{index}] is {_shown(entry)}, which {section} does not name.{near}")


def _check_corpus(config: dict) -> None:
    """What takes its text from docstrings finds its packages in the corpus."""
    docstring_tasks = {name: task for name, task in config["tasks"].items() if task["source"] == "docstrings"}
    users = [f"tasks.{name}" for name in docstring_tasks]
    models = (config["models"] | config["language_modelling"]["models"]).items()
    users += [f"models.{name}" for name, model in models if _is_pretrained_here(model)]
    if users and "corpus" not in config:
        raise UserError(f"config key corpus is missing: {users[0]} takes its text from the packages named there.")
    if "corpus" in config and config["corpus"]["min_words"] > config["corpus"]["max_words"]:
        raise UserError("config key corpus.min_words is greater than corpus.max_words: no snippet would fit.")
    for name, task in docstring_tasks.items():
        packages = config["corpus"]["packages"]
        needed = {"package": task["package"]} if task["label"] == "topic" else {}
        if task["label"] == "library":
            needed = {f"classes[{index}]": package for index, package in enumerate(task["classes"])}
        for key, package in needed.items():
            if package not in packages:
                found = f"{_shown(package)}, which corpus.packages does not name"
                raise UserError(f"config key tasks.{name}.{key} is {found}.{did_you_mean(package, packages)}")


def _is_pretrained_here(model: dict) -> bool:
    return model["source"] == "pretraining" and "checkpoint" not in model


def main() -> None:
    parser = argparse.ArgumentParser(description="Check a study's config and print it with all defaults.")
    parser.add_argument("config", type=Path, help="e.g. config/mini.yaml")
    config = read(parser.parse_args().config, METHODS)
    yaml.safe_dump(config, sys.stdout, sort_keys=False, allow_unicode=True)


if __name__ == "__main__":
    run(main)
