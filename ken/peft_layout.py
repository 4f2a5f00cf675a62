"""Where each tensor of a fine-tuned model goes in an adapter of peft: into factors, a whole module, or by itself."""

from typing import TYPE_CHECKING

import torch
from torch import nn

from ken.empty_models import called_modules, is_linear, parameter_names
from ken.low_rank import update_of
from ken.pairing import Pair, aligned

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TASKS = {
    "ForSequenceClassification": ("SEQ_CLS", ("classifier", "score")),
    "ForTokenClassification": ("TOKEN_CLS", ("classifier", "score")),
    "ForQuestionAnswering": ("QUESTION_ANS", ("qa_outputs",)),
}
"""End of a class name -> peft's name of the task, and the modules that peft then always saves whole."""


class Layout:
    """The tensors of a pair by the names of a model.

    Attributes:
        sources: tensor of the model -> tensor of the pair.
        task: peft's name of the task, or None.

    Raises:
        ValueError: a tensor is missing on one side, or has another shape.
    """

    def __init__(self, pair: Pair, model: "PreTrainedModel"):
        self.pair, self.model = pair, model
        self.sources = self._matched()
        kind = type(model).__name__
        self.task, self._always = next((task for end, task in TASKS.items() if kind.endswith(end)), (None, ()))
        self._called = called_modules(model)
        head, self._head = set(pair.head), {parent for name in self.sources for parent in _parents(name)}
        """Modules all of whose tensors are of the head."""
        for name, source in self.sources.items():
            if source not in head:
                self._head.difference_update(_parents(name))
        # peft compares the ends of names: "classifier" is also the end of "pre_classifier".
        self._ends: tuple[str, ...] = self._always
        self._ends += tuple({self.whole_module(parameter) for parameter in self.sources} - {None})

    def _matched(self) -> dict[str, str]:
        state, pair = self.model.state_dict(), self.pair
        label, kind = pair.finetuned.label, type(self.model).__name__
        sources = aligned([*pair.body, *pair.whole], state)
        others = set(pair.body).union(pair.head).difference(sources.values())
        if unknown := sorted(name for name in others if name in pair.head or self.update(name)[0].any()):
            raise ValueError(
                f"{kind}, the class that config.json of {label} names, has no tensor {unknown[0]!r} "
                f"({len(unknown)} such tensors): only files with the names of the class can be exported."
            )
        if missing := sorted(parameter_names(self.model) - sources.keys()):
            raise ValueError(
                f"{label} lacks tensor {missing[0]!r} of {kind}, the class that its config.json names: save it again."
            )
        for parameter, name in sources.items():
            if (shape := tuple(state[parameter].shape)) != pair.spec(name).shape:
                raise ValueError(
                    f"tensor {name!r} of {label} is {pair.spec(name).shape}, but {shape} by its config.json: "
                    "save it again."
                )
        return sources

    @property
    def body(self) -> dict[str, str]:
        """The part of `sources` that has pre-trained values."""
        return {parameter: name for parameter, name in self.sources.items() if name in self.pair.body}

    @property
    def head(self) -> list[str]:
        """Parameters without pre-trained values."""
        head = set(self.pair.head)
        return [parameter for parameter, name in self.sources.items() if name in head]

    def has_factors(self, parameter: str) -> bool:
        """Whether LoRA can change it: the weight of a linear layer or embedding that is called."""
        owner, _, leaf = parameter.rpartition(".")
        return leaf == "weight" and self._takes_lora(owner) and self.whole_module(parameter) is None

    def whole_module(self, parameter: str) -> str | None:
        """The module that is stored whole for a parameter: a norm, a part of the head, one that LoRA cannot change.

        None: LoRA can change the module, or it has further modules inside, so that its own parameters go by themselves.
        """
        owner = parameter.rpartition(".")[0]
        for parent in reversed(_parents(parameter)):
            if parent.endswith(self._ends) or (parent in self._head and parent in self._called):
                return parent
        is_leaf = next(self.model.get_submodule(owner).children(), None) is None
        return owner if is_leaf and not self._takes_lora(owner) else None

    def with_same_ends(self, modules: set[str]) -> set[str]:
        """All modules whose names end in one of these, or which peft always saves: it expects the tensors of all."""
        ends = (*modules, *self._always)
        return {name for name, _ in self.model.named_modules() if name and name.endswith(ends)}

    def _takes_lora(self, owner: str) -> bool:
        module = self.model.get_submodule(owner)
        return owner in self._called and (is_linear(module) or isinstance(module, nn.Embedding))

    def update(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Update in float32 and pre-trained values of a tensor of the body.

        Raises:
            ValueError: the update is not finite.
        """
        base = self.base_values(name)
        update = update_of(self.pair.finetuned_tensor(name), base)
        if update is None:
            raise ValueError(f"tensor {name!r} has an update that is not finite: an adapter cannot hold it.")
        return update, base

    def base_values(self, name: str) -> torch.Tensor:
        """Pre-trained values of a tensor of the body, in the fine-tuned dtype."""
        return self.pair.base.tensor(self.pair.body[name]).to(self.pair.spec(name).dtype)


def _parents(name: str) -> list[str]:
    """Names of the modules around a tensor, innermost first."""
    parts = name.split(".")[:-1]
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
