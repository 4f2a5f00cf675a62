"""Time and memory of every step of LLM Surgeon over the width of a layer, compared with an explicit Fisher matrix.

`python -m benchmarks.curvature` prunes square layers of random values, each width in a separate process to measure its
peak memory. A layer of width n has two n × n factors and their inverses; the Fisher matrix, their Kronecker product,
would be n² × n² and is built for a small layer only, as a comparison.
"""

import json
import math
import os
import subprocess
import sys
import time

import torch

from baselines.llm_surgeon import costs, updates
from baselines.llm_surgeon.factors import Factors
from benchmarks import common

EXPLICIT = 32  # width of the layer for which the Fisher matrix is built
TOKENS = 512
SPARSITY = 0.1


def factors(width: int, tokens: int) -> Factors:
    """Damped factors of random activations and gradients for a number of tokens."""
    generator = torch.Generator().manual_seed(0)
    a, g = (torch.randn(tokens, width, dtype=torch.float64, generator=generator) for _ in range(2))
    return Factors(g.T @ g, a.T @ a).damped(0.1, 0.01)


def timed(work, *arguments) -> tuple[float, object]:
    """CPU seconds of a call, which do not depend on the load of the machine, and its result."""
    start = time.process_time()
    result = work(*arguments)
    return time.process_time() - start, result


def peak_mib() -> float:
    """Peak resident memory of this process."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def steps(width: int) -> dict[str, float]:
    """CPU seconds of every step on one layer, and their memory in total."""
    before = peak_mib()
    deviation = torch.randn(width, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sums, damped = timed(factors, width, TOKENS)
    inverting, inverses = timed(damped.inverses)
    costing, curvature = timed(costs.curvature, damped, "obs", inverses)
    seconds, element_costs = timed(costs.element_costs, deviation, curvature)
    removed = updates.cheapest_elements({"": element_costs}, round(SPARSITY * width**2))[""]
    rows, columns = (torch.zeros(width, dtype=torch.bool) for _ in range(2))
    rows[: width // 20] = columns[: width // 20] = True
    structured, _ = timed(updates.remove_structures, deviation, damped, rows, columns)
    memory = peak_mib() - before  # before the elements, whose blocks would dominate the peak
    elements, _ = timed(updates.remove_elements, deviation, damped, inverses, removed)
    return {
        "factors": sums, "inverses": inverting, "costs": costing + seconds, "rows and columns": structured,
        "elements": elements, "memory, MiB": memory, "memory with elements, MiB": peak_mib() - before,
    }  # fmt: skip


def explicit(width: int) -> float:
    """CPU seconds of one update with the explicit Kronecker product, as in the tests' reference implementation."""
    deviation = torch.randn(width, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    damped = factors(width, TOKENS)
    gone = torch.zeros(width**2, dtype=torch.bool)
    gone[: round(SPARSITY * width**2)] = True

    def work() -> torch.Tensor:
        fisher = torch.kron(damped.g, damped.a)
        pull = fisher[~gone][:, gone] @ deviation.reshape(-1)[gone]
        return torch.linalg.solve(fisher[~gone][:, ~gone], pull)

    return min(timed(work)[0] for _ in range(3))


def steps_in_subprocess(width: int, threads: int) -> dict[str, float]:
    """`steps` of a width in a separate process."""
    program = f"import json, torch; from benchmarks.curvature import steps; torch.set_num_threads({threads}); " \
        f"steps(64); print(json.dumps(steps({width})))"  # fmt: skip
    completed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ, check=True
    )
    return json.loads(completed.stdout.splitlines()[-1])


def slope(small: tuple[int, float], large: tuple[int, float]) -> float:
    """Exponent of growth between two (width, value) pairs."""
    return math.log(large[1] / small[1]) / math.log(large[0] / small[0])


def main() -> None:
    parser = common.parser("Time and memory of LLM Surgeon against the width of a layer.")
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 512, 1024, 2048])
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    measurements = {width: steps_in_subprocess(width, a.threads) for width in sorted(a.widths)}
    numbers: dict = {"threads": a.threads, "tokens": TOKENS, "elements removed": SPARSITY}
    for width, measured in measurements.items():
        for name, value in measured.items():
            numbers[f"width {width}: {name}{'' if 'MiB' in name else ', CPU s'}"] = value
        factors_mib = 2 * width**2 * 8 / 2**20
        numbers[f"width {width}: memory, times both factors"] = measured["memory, MiB"] / factors_mib
        numbers[f"width {width}: explicit Fisher matrix, times both factors"] = width**4 * 8 / 2**20 / factors_mib
    widths = sorted(measurements)
    for name in ("inverses", "costs", "rows and columns", "elements"):
        ends = [(width, measurements[width][name]) for width in (widths[-2], widths[-1])]
        numbers[f"{name}: seconds grow with the width to the power of"] = slope(*ends)
    ours = min(steps(EXPLICIT)["elements"] for _ in range(3))
    numbers[f"explicit Fisher matrix at width {EXPLICIT}, times the update from factors"] = explicit(EXPLICIT) / ours
    common.finish("curvature", numbers, a.out)


if __name__ == "__main__":
    main()
