"""Speed of KEN's rankings compared with a sort of the same rows and with straightforward per-row code.

`python -m benchmarks.ranking` ranks all rows of a BERT-base-sized model on the CPU; `--device cuda --size bloom-1b7`
does so on a GPU with every density method and reports the share of the machine's limits.
"""

from collections.abc import Callable

import numpy as np
import torch

from benchmarks import common
from ken import kde, selection
from study.running import provenance

GRID_SHARE = 6  # ken-grid keeps one sixth of each row
EXP_PER_SM_AND_CLOCK = 16  # special function units of NVIDIA's data-centre GPUs (CUDA programming guide, arithmetic)


def make_tensors(size: str, device: str) -> list[torch.Tensor]:
    """Random normal weights with the shapes of a model."""
    generator = torch.Generator(device).manual_seed(0)
    return [torch.randn(shape, generator=generator, device=device) * 0.04 for shape in common.shapes(size).values()]


def scikit_learn_row(row: np.ndarray, k: int) -> np.ndarray:
    """KEN's choice for one row, written out plainly: the k indices of highest density."""
    from sklearn.neighbors import KernelDensity

    h = 1.06 * row.std() * len(row) ** -0.2
    density = KernelDensity(kernel="gaussian", bandwidth=h).fit(row[:, None]).score_samples(row[:, None])
    return np.argsort(-density, kind="stable")[:k]


def scikit_learn_density(row: np.ndarray, h: float, points: np.ndarray) -> np.ndarray:
    """Kernel density of a row at some points."""
    from sklearn.neighbors import KernelDensity

    return np.exp(KernelDensity(kernel="gaussian", bandwidth=h).fit(row[:, None]).score_samples(points[:, None]))


def numpy_density(row: np.ndarray, h: float, points: np.ndarray) -> np.ndarray:
    """The same from all pairs."""
    return np.exp(-0.5 * ((points[:, None] - row) / h) ** 2).sum(1) / (len(row) * h * np.sqrt(2 * np.pi))


def grid_row(row: np.ndarray, k: int, density: Callable = scikit_learn_density) -> np.ndarray:
    """The released code's choice for one row, point by point, as a bool mask."""
    points = np.linspace(row.min(), row.max(), k)
    levels = np.rint(density(row, 1.06 * row.std() * len(row) ** -0.2, points))
    free = row.copy()
    for point in points[np.argsort(-levels, kind="stable")]:
        free[np.abs(free - point).argmin()] = np.inf
    return np.isin(row, row[np.isinf(free)])


def rank_all(tensors: list[torch.Tensor], method: str = "auto") -> list[torch.Tensor]:
    """Ranks of all tensors with one density method (`kde.METHODS`); one density pass gives the ranks for every k."""
    return [selection.rank(tensor, tensor, lambda rows, *_: kde.density(rows, method)) for tensor in tensors]


def sort_all(tensors: list[torch.Tensor]) -> None:
    """Sort every row once, the minimal cost of a ranking."""
    for tensor in tensors:
        torch.sort(selection.as_rows(tensor), dim=1)


def against_scikit_learn(size: str, sample: int) -> float:
    """Estimated seconds of per-row scikit-learn for all rows at one k, from a sample of each length."""
    rng, total = np.random.default_rng(0), 0.0
    for n, count in common.row_lengths(size).items():
        rows = rng.normal(0, 0.04, (max(1, min(sample, count)), n))
        taken = common.seconds_of(lambda rows=rows, n=n: [scikit_learn_row(row, n // 4) for row in rows], repeats=1)
        total += taken / len(rows) * count
    return total


def against_the_loop(size: str, sample: int) -> dict:
    """Estimated seconds of ken-grid and of two loops for all rows, and whether all keep the same entries."""
    generator, same = torch.Generator().manual_seed(0), True
    ours, loops = 0.0, {scikit_learn_density: 0.0, numpy_density: 0.0}
    for n, count in common.row_lengths(size).items():
        rows, k = torch.randn(min(count, 2**22 // n), n, generator=generator) * 0.04, max(1, n // GRID_SHARE)
        few = rows[:sample].double().numpy()
        taken = common.seconds_of(lambda rows=rows, k=k: selection.select(rows, rows, k, selection.GRID))
        ours += taken / len(rows) * count
        kept = selection.select(rows[:sample], rows[:sample], k, selection.GRID).numpy()
        for density in loops:
            loop = lambda few=few, k=k, density=density: np.stack([grid_row(row, k, density) for row in few])  # noqa: E731
            loops[density] += common.seconds_of(loop, repeats=1) / len(few) * count
            same &= np.array_equal(kept, loop())
    return {
        "ken-grid, s (from a sample)": ours,
        "loop for ken-grid, s (from a sample)": loops[scikit_learn_density],
        "loop for ken-grid with numpy alone, s (from a sample)": loops[numpy_density],
        "ken-grid, times faster than the loop": loops[scikit_learn_density] / ours,
        "ken-grid, times faster than the loop with numpy alone": loops[numpy_density] / ours,
        "ken-grid keeps the same entries as the loop": same,
    }


def on_gpu(tensors: list[torch.Tensor], sort: float) -> dict:
    """Time of every density method, its share of the card's limits, and the agreement of ranks with the CPU."""
    card = torch.cuda.get_device_properties(0)
    exponentials = sum(selection.as_rows(t).shape[0] * selection.as_rows(t).shape[1] ** 2 for t in tensors)
    limit = card.multi_processor_count * EXP_PER_SM_AND_CLOCK * card.clock_rate * 1000
    traffic = sum(t.numel() * (t.itemsize + 8 + 4) for t in tensors)
    bandwidth = 2 * card.memory_clock_rate * 1000 * card.memory_bus_width / 8
    numbers = {"card": card.name, "exponentials": float(exponentials)}
    for method in ("exact", "binned"):
        seconds = common.seconds_of(lambda method=method: rank_all(tensors, method), device="cuda")
        numbers |= {
            f"{method}: ranking, s": seconds,
            f"{method}: times the sort": seconds / sort,
            f"{method}: share of the memory bandwidth": traffic / seconds / bandwidth,
            f"{method}: ranks equal to the CPU's, share of a sample": equal_to_cpu(tensors, method),
        }
    numbers["exact: share of the single-precision exponentials"] = exponentials / numbers["exact: ranking, s"] / limit
    return numbers


def equal_to_cpu(tensors: list[torch.Tensor], method: str, rows: int = 16) -> float:
    """Share of entries, in a few rows of each tensor, with the same rank on the GPU as on the CPU."""
    sample = [selection.as_rows(tensor)[:rows] for tensor in tensors]
    there, here = rank_all(sample, method), rank_all([tensor.cpu() for tensor in sample])
    same = sum(int((a.cpu() == b).sum()) for a, b in zip(there, here, strict=True))
    return same / sum(tensor.numel() for tensor in sample)


def main() -> None:
    parser = common.parser("Time KEN's rankings against a sort and against per-row code.")
    parser.add_argument("--size", choices=common.SIZES, default="bert-base")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sample", type=int, default=8, help="rows of each length for scikit-learn")
    parser.add_argument(
        "--deterministic", action="store_true", help="use deterministic kernels, as the study's steps do"
    )
    a = parser.parse_args()
    if a.deterministic:
        provenance.make_deterministic(0)
    torch.set_num_threads(a.threads)
    tensors = make_tensors(a.size, a.device)
    rows = sum(common.row_lengths(a.size).values())
    sort = common.seconds_of(lambda: sort_all(tensors), repeats=1, device=a.device)
    density = kde.resolved_method("auto", torch.empty(1, 768, device=a.device))
    numbers = {
        "size": a.size, "device": a.device, "threads": a.threads, "deterministic": a.deterministic,
        "density of rows of 768": density, "rows": rows, "entries": sum(t.numel() for t in tensors),
        "row-wise torch.sort, s": sort,
    }  # fmt: skip
    if a.device == "cpu":
        rank = common.seconds_of(lambda: rank_all(tensors), repeats=1)
        numbers |= {"ranking, s": rank, "ranking, rows/s": rows / rank, "ranking, times the sort": rank / sort}
        straightforward = against_scikit_learn(a.size, a.sample)
        numbers["scikit-learn per row at one k, s (from a sample)"] = straightforward
        numbers["ranking for every k, times faster than scikit-learn for one"] = straightforward / rank
        numbers |= against_the_loop(a.size, a.sample)
    else:
        numbers |= on_gpu(tensors, sort)
    common.finish("ranking", numbers, a.out)


if __name__ == "__main__":
    main()
