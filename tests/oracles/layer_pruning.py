"""SparseGPT and Wanda by their definitions: explicit inverses, column by column, inputs from whole passes."""

import math

import numpy as np
import torch

BLOCK, DAMPING = 128, 0.01


def layer_inputs(model, layers, batches):
    """Layer -> (positions, columns): all its inputs in passes of the whole model."""
    inputs = {name: [] for name in layers}

    def hook(name):
        return lambda module, args: inputs[name].append(args[0].detach().double().flatten(0, -2).numpy())

    handles = [model.get_submodule(name).register_forward_pre_hook(hook(name)) for name in layers]
    with torch.no_grad():
        for batch in batches:
            model(**batch)
    for handle in handles:
        handle.remove()
    return {name: np.concatenate(parts) for name, parts in inputs.items()}


def prune_model(model, groups, batches, prune, structure, sparsity):
    """Prune a model in place group by group; returns layer -> (weight before rounding to the model's type, removed)."""
    results = {}
    for group in groups:
        for name, inputs in layer_inputs(model, group, batches).items():
            weight = model.get_submodule(name).weight
            results[name] = prune(weight.detach().double().numpy(), inputs, structure, sparsity)
            with torch.no_grad():
                weight.copy_(torch.from_numpy(results[name][0]))
    return results


def round_half_even(value):
    return int(np.round(value))


def share_of(index, size, sparsity):
    """Entries that the group at `index` loses, when every group before it has `size` entries."""
    return round_half_even((index + 1) * size * sparsity) - round_half_even(index * size * sparsity)


def two_of(costs):
    """Indices of the two cheapest of four, the first ones if they are equal."""
    return sorted(range(4), key=lambda i: (costs[i], i))[:2]


def wanda(weight, inputs, structure, sparsity):
    rows, columns = weight.shape
    norms = [math.sqrt(math.fsum(inputs[:, j] ** 2)) for j in range(columns)]
    removed = np.zeros(weight.shape, dtype=bool)
    for i in range(rows):
        costs = [abs(weight[i, j]) * norms[j] for j in range(columns)]
        if structure == "2:4":
            chosen = [start + k for start in range(0, columns, 4) for k in two_of(costs[start : start + 4])]
        else:
            chosen = sorted(range(columns), key=lambda j: (costs[j], j))[: share_of(i, columns, sparsity)]
        removed[i, chosen] = True
    return np.where(removed, 0.0, weight), removed


def sparsegpt(weight, inputs, structure, sparsity):
    """Every removal is an optimal brain surgeon step with the explicit inverse of H over this and all later columns."""
    values, (rows, columns) = weight.copy(), weight.shape
    hessian = 2 * inputs.T @ inputs
    hessian += DAMPING * np.trace(hessian) / columns * np.eye(columns)
    curvatures = [1 / np.linalg.inv(hessian[j:, j:])[0, 0] for j in range(columns)]  # of a column, later ones adapt
    inverse = np.linalg.inv(hessian)  # over the columns that are not decided yet; the others become zero
    removed, lost = np.zeros(weight.shape, dtype=bool), 0
    for j in range(columns):
        if structure != "2:4" and j % BLOCK == 0:
            stop = min(j + BLOCK, columns)
            costs = {(i, k): values[i, k] ** 2 * curvatures[k] for i in range(rows) for k in range(j, stop)}
            count = round_half_even(rows * stop * sparsity) - lost
            for entry in sorted(costs, key=costs.get)[:count]:
                removed[entry] = True
            lost += count
        if structure == "2:4" and j % 4 == 0:
            for i in range(rows):
                costs = [values[i, k] ** 2 * curvatures[k] for k in range(j, j + 4)]
                removed[i, [j + k for k in two_of(costs)]] = True
        for i in np.flatnonzero(removed[:, j]):
            values[i] -= values[i, j] / inverse[j, j] * inverse[j]
        inverse = inverse - np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
        values[removed[:, j], j] = 0.0
    return np.where(removed, 0.0, values), removed
