"""Checks of config values against each other, which the types of single values cannot express."""

from collections.abc import Collection, Iterable, Mapping

from baselines import Method, TrainedMethod
from baselines.base import names_entries
from baselines.options import shown
from ken.errors import UserError, did_you_mean
from study.definition import method_settings

METHOD_SECTIONS = ("inference", "spread", "suggestion")  # sections with a list of methods of the study
RESERVED = {  # names below results/ that are not free for a study
    "reference": "holds the committed runs to compare with",
    "slurm-logs": "holds the logs of SLURM",
}
CAUSAL = ("bloom",)  # architectures that can be pre-trained here and are causal language models


def check(config: Mapping, methods: Mapping[str, Method]) -> None:
    """Refuse a config whose values are valid alone but not together.

    Args:
        config: with all defaults, but with section kenviz as it was written.
        methods: the registered methods by name.

    Raises:
        UserError: one sentence with the full path of the key.
    """
    if held := RESERVED.get(name := config["study"]):
        _refuse(f'study is "{name}", but results/{name} {held}: choose another name.')
    _check_corpus(config)
    _check_names(config)
    for name, model in config["models"].items():
        _check_size(f"models.{name}", model)
    _check_language(config)
    _check_method_settings(config, methods)
    _check_task_budgets(config, methods)
    _check_spread(config, methods)


def check_unused_settings(config: dict, written: Collection[str]) -> None:
    """Refuse settings of methods that are not run, and remove those that are inherited.

    Args:
        config: with all defaults; changed in place.
        written: methods with settings in the config itself, not only in the one it extends.

    Raises:
        UserError: such a method is not run.
    """
    settings, adaptation = config["method_settings"], config["language_modelling"]["adaptation"]
    run = {"full", "none", *config["methods"], *(adaptation["methods"] if "text" in adaptation else ())}
    for name in [name for name in settings if name not in run]:
        if name in written:
            _refuse(f"method_settings.{name} has no effect: {name} is not in methods. Add it there, or remove it here.")
        del settings[name]


def notes(config: Mapping, methods: Mapping[str, Method]) -> list[str]:
    """Notes for users who mean all entries of each row by a kept share of 1, one for each key."""
    lists = {"kept_shares": config["kept_shares"]}
    lists |= {f"tasks.{name}.kept_shares": task.get("kept_shares", ()) for name, task in config["tasks"].items()}
    for name, section in config["method_settings"].items():
        if methods[name].unit == "share":
            lists[f"method_settings.{name}.budgets"] = section.get("budgets", ())
    return [
        f"note: {key} has 1, which keeps one entry of each row; all of them are kept by the control full"
        for key, shares in lists.items()
        if any(share == 1 and isinstance(share, int) for share in shares)
    ]


def pictured(config: Mapping, methods: Mapping[str, Method]) -> dict:
    """Section kenviz completed: by default the first model and task, and a method that is run at the share.

    Raises:
        UserError: the named method, or every method, is not run at the share.
    """
    chosen, shares = config["kenviz"], config["kept_shares"]
    first = {"model": next(iter(config["models"])), "task": next(iter(config["tasks"]))}
    share = chosen.get("kept_share", 0.25 if 0.25 in shares else shares[-1])
    selecting = [name for name in config["methods"] if _selects(methods[name])]
    task = chosen.get("task", first["task"])
    drawn = [name for name in selecting if share in method_settings.budgets_in(config, methods[name], task)]
    if not drawn:
        _refuse(f"kenviz.kept_share is {share}, but no method that keeps a share is run at it: choose another.")
    if (name := chosen.get("method")) not in (None, *drawn):
        not_run = f"kenviz.method is {shown(name)}, which is not run at its kept_share ({share})"
        _refuse(f"{not_run}: name one that is ({', '.join(drawn)}).")
    return first | {"kept_share": share, "method": "ken" if "ken" in drawn else drawn[-1]} | chosen


def _selects(method: Method) -> bool:
    """Whether the file of a method names a share of the entries."""
    return method.unit == "share" and method.family != "control" and names_entries(method)


def check_scores_only(config: Mapping) -> None:
    """Refuse to remove stored files that a later step reads.

    Args:
        config: with all defaults, including those of section kenviz.

    Raises:
        UserError: a method is not in the study, or a later step reads its files.
    """
    _check_named("scores_only", config["scores_only"], "methods", config["methods"])
    readers = {name: config[name]["methods"] for name in ("inference", "spread")}
    readers |= {"kenviz": [config["kenviz"]["method"]]}
    for index, method in enumerate(config["scores_only"]):
        if used := [name for name, methods in readers.items() if method in methods]:
            key = f"scores_only[{index}] is {shown(method)}"
            _refuse(f"{key}, whose stored files {used[0]} reads: take it out of one of the two.")


def _refuse(sentence: str) -> None:
    raise UserError(f"config key {sentence}")


def _check_named(key: str, entries: Iterable, section: str, names: Collection, always: Collection = ()) -> None:
    """Refuse an entry of a list that is neither a name of the section nor one that every study has."""
    for index, entry in enumerate(entries):
        if entry not in names and entry not in always:
            hint = did_you_mean(str(entry), map(str, names))
            _refuse(f"{key}[{index}] is {shown(entry)}, which is not in {section}.{hint}")


def _check_names(config: Mapping) -> None:
    """Refuse names of models, tasks, seeds and methods that the study does not have."""
    for seed in config["finetuning"].get("random_init_seeds", []):
        if seed not in config["seeds"]:
            listed = ", ".join(map(str, config["seeds"]))
            _refuse(f"finetuning.random_init_seeds names {seed}, but must name some of seeds ({listed}).")
    for axis in ("models", "tasks", "seeds"):
        _check_named(f"trained_on.{axis}", config["trained_on"].get(axis, []), axis, config[axis])
    for section in METHOD_SECTIONS:
        _check_named(f"{section}.methods", config[section]["methods"], "methods", config["methods"], ("full", "none"))
    for key, names in {"model": config["models"], "task": config["tasks"]}.items():
        if (name := config["kenviz"].get(key)) not in (None, *names):
            _refuse(f'kenviz.{key} is "{name}", which is not in {key}s.{did_you_mean(name, names)}')


def _check_corpus(config: Mapping) -> None:
    """Refuse tasks and models from docstrings of packages that the corpus does not have."""
    tasks = {name: task for name, task in config["tasks"].items() if task["source"] == "docstrings"}
    models = config["models"] | config["language_modelling"]["models"]
    pretrained = [name for name, model in models.items() if _is_pretrained_here(model)]
    users = [f"tasks.{name}" for name in tasks] + [f"models.{name}" for name in pretrained]
    if users and "corpus" not in config:
        _refuse(f"corpus is missing: {users[0]} takes its text from the packages named there.")
    if "corpus" in config and config["corpus"]["min_words"] > config["corpus"]["max_words"]:
        _refuse("corpus.min_words is greater than corpus.max_words: no snippet would fit.")
    for name, task in tasks.items():
        packages = config["corpus"]["packages"]
        if task["label"] == "library":
            _check_named(f"tasks.{name}.classes", task["classes"], "corpus.packages", packages)
        elif (package := task["package"]) not in packages:
            hint = did_you_mean(package, packages)
            _refuse(f"tasks.{name}.package is {shown(package)}, which is not in corpus.packages.{hint}")


def _is_pretrained_here(model: Mapping) -> bool:
    return model["source"] == "pretraining" and "checkpoint" not in model


def _check_size(key: str, model: Mapping) -> None:
    """Refuse a size without the feed-forward width, unless the architecture implies it."""
    if model.get("architecture", "bloom") != "bloom" and "intermediate_size" not in model["size"]:
        _refuse(f"{key}.size.intermediate_size is missing: width of the feed-forward layers.")


def _check_language(config: Mapping) -> None:
    """Refuse language models without text, text from packages outside the corpus, and names with two meanings."""
    section = config["language_modelling"]
    texts = {name: section[name]["text"] for name in ("pruning", "adaptation") if "text" in section[name]}
    if section["models"] and not texts:
        _refuse("language_modelling.pruning.text is missing, and so is adaptation.text: the models need a text.")
    if texts and not section["models"]:
        _refuse("language_modelling.models is empty: name a causal language model.")
    for name, model in section["models"].items():
        key = f"language_modelling.models.{name}"
        _check_size(key, model)
        if config["models"].get(name, model) != model:
            _refuse(f"{key} differs from models.{name}: give one of them another name.")
        if model.get("architecture", "bloom") not in CAUSAL:
            architecture = f"{key}.architecture is {shown(model['architecture'])}"
            _refuse(f"{architecture}, but language models here are {', '.join(CAUSAL)}.")
    packages = config.get("corpus", {}).get("packages", [])
    for name, text in texts.items():
        _check_named(f"language_modelling.{name}.text.packages", text.get("packages", []), "corpus.packages", packages)


def _check_method_settings(config: Mapping, methods: Mapping[str, Method]) -> None:
    """Refuse settings of a method that have no effect on it."""
    for name, settings in config["method_settings"].items():
        key = f"method_settings.{name}"
        if "draws" in settings and not methods[name].stochastic:
            _refuse(f"{key}.draws is {settings['draws']}, but {name} draws nothing at random: leave it out.")
        if "rate_factors" in settings and not isinstance(methods[name], TrainedMethod):
            _refuse(f"{key}.rate_factors is {settings['rate_factors']}, but {name} does not train: leave it out.")


def _check_task_budgets(config: Mapping, methods: Mapping[str, Method]) -> None:
    """Refuse kept shares of a task that leave a method without a budget, or that no method has."""
    for task, spec in config["tasks"].items():
        if "kept_shares" not in spec:
            continue
        run = {name: method_settings.budgets_in(config, methods[name], task) for name in config["methods"]}
        if without := [name for name, budgets in run.items() if not budgets]:
            _refuse(f"tasks.{task}.kept_shares has none of the budgets of {without[0]}: add one of them.")
        used = {budget for budgets in run.values() for budget in budgets}
        if unused := [budget for budget in spec["kept_shares"] if budget not in used]:
            _refuse(f"tasks.{task}.kept_shares has {unused[0]}, at which no method is run: leave it out.")


def _check_spread(config: Mapping, methods: Mapping[str, Method]) -> None:
    """Refuse methods in section spread that are not run at its kept share."""
    share, task = config["spread"]["kept_share"], next(iter(config["tasks"]))
    for index, name in enumerate(config["spread"]["methods"]):
        if not _selects(methods[name]):
            _refuse(f"spread.methods[{index}] is {name}, whose file is no sub-network: leave it out.")
        if share not in (budgets := method_settings.budgets_in(config, methods[name], task)):
            key, listed = f"spread.methods[{index}] is {name}", ", ".join(map(str, budgets))
            _refuse(f"{key}, which is not run at spread.kept_share ({share}), but at {listed}.")
