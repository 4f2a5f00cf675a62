"""Labels, colours, markers and number formats of all tables, figures and sentences.

Colours follow the set of Okabe and Ito, which colour-blind readers can distinguish. Markers and dashes distinguish
methods in grey.
"""

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

CONTROLS = ("none", "full")
LABELS = {
    "full": "Full",
    "smallest-file": "Smallest file",
    "none": "None",
    "shrink": "Shrunk update",
    "ken": "KEN",
    "ken-linear": "KEN of linear layers",
    "ken-layers": "KEN of encoder layers",
    "ken-embeddings": "KEN of embeddings",
    "ken-grid": "KEN grid",
    "ken-grid-layers": "KEN grid (layers)",
    "ken-delta": "KEN of Δ",
    "ken-base": "KEN of the base",
    "random": "Random",
    "seeded": "Seeded",
    "rounded": "Rounded",
    "magnitude": "Magnitude",
    "magnitude-zero": "Magnitude to zero",
    "delta-magnitude": "Δ-magnitude",
    "delta-global": "Global Δ-magnitude",
    "dare": "DARE",
    "della": "DELLA",
    "bitdelta": "BitDelta",
    "bitdelta-rows": "BitDelta by row",
    "compeft": "ComPEFT",
    "delta-come": "Delta-CoMe",
    "svd": "SVD",
    "svd-allocated": "SVD, ranks chosen",
    "lora": "LoRA",
    "flop": "FLOP",
    "lt-sft": "LT-SFT",
    "fish": "FISH",
    "sparsegpt": "SparseGPT",
    "wanda": "Wanda",
    "llm-surgeon": "LLM Surgeon",
    "llm-surgeon-independent": "LLM Surgeon, independent updates",
    "k-obd": "K-OBD",
    "l-obd": "L-OBD",
    "dense": "Dense",
    "surgeon-delta": "Surgeon of Δ",
    "surgeon-delta-updated": "Surgeon of Δ, updated",
}
WHOLE_EMBEDDINGS = {"bitdelta", "flop", "ken-layers", "ken-linear", "ken-grid-layers", "llm-surgeon"}
"""Methods whose files hold the embeddings in full, in small models most of their bytes. A test compares this with the
methods' own `stored_bytes`."""
FAMILY_LABELS = {
    "reset": "as they are", "rescaled": "rescaled", "other": "other", "trained": "trained", "control": "all, shrunk",
}  # fmt: skip
_NAME = re.compile(r"(?P<base>.+?)(?P<rescaled>-rescaled)?(?:-(?P<bits>16|8|4|3|2|1)bit)?", re.S)
DASHES = {16: (9, 1, 1, 1), 8: (7, 1, 1, 1), 4: (4, 1, 1, 1), 3: (3, 1, 1, 1), 2: (2, 1), 1: (1, 1)}  # by bits
ACCENT = "#1b82c4"
INK, MUTED, GRID = "#1d2127", "#646b75", "#dfe2e6"  # in dark mode the page gives these three other values
NO_BREAK_SPACE = "\u00a0"
VERDICT_WORDS = {"open (loss shown, size open)": "open (loss shown)"}  # stored verdict -> what readers see
STRUCTURE_LABELS = {"element": "elements", "2:4": "2:4", "row-column": "rows and columns"}


@dataclass(frozen=True)
class MethodStyle:
    """Colour, marker, dash pattern and marker size (points) of a method, and whether its markers are hollow."""

    colour: str
    marker: str | tuple
    line: str | tuple = "-"
    size: float = 4.5
    hollow: bool = False


FIXED = {
    "shrink": MethodStyle("#1d2127", "X", (0, (4, 1.5)), 5),
    "ken": MethodStyle("#d55e00", "o"),
    "ken-linear": MethodStyle("#d55e00", "^", (0, (1, 1))),
    "ken-layers": MethodStyle("#d55e00", "s", (0, (3, 1, 1, 1)), 4),
    "ken-embeddings": MethodStyle("#d55e00", "d", (0, (5, 1, 1, 1)), 5),
    "ken-grid": MethodStyle("#e69f00", "D", size=4),
    "ken-grid-layers": MethodStyle("#e69f00", "d", (0, (1, 1))),
    "ken-delta": MethodStyle("#cc79a7", "P", size=5.5),
    "ken-base": MethodStyle("#96390b", "D", size=4.5),
    "random": MethodStyle("#808792", "s", (0, (2.5, 1)), 6.5),
    "seeded": MethodStyle("#0b3c6f", "s", size=5),
    "rounded": MethodStyle("#6a2c91", "v", size=5.5),
    "magnitude": MethodStyle("#0072b2", "^"),
    "magnitude-zero": MethodStyle("#0072b2", "X", (0, (1, 1)), 5.5),
    "delta-magnitude": MethodStyle("#009e73", "v"),
    "delta-global": MethodStyle("#6f9a1f", ">"),
    "dare": MethodStyle("#56b4e9", "p", size=6),
    "della": MethodStyle("#7b52ab", "h", size=6),
    "bitdelta": MethodStyle("#7f6a60", "8", size=6.5),
    "bitdelta-rows": MethodStyle("#7f6a60", "H", (0, (1, 1)), 6),
    "compeft": MethodStyle("#b8860b", "X", size=6),
    "delta-come": MethodStyle("#4b5d16", "P", (0, (5, 1, 1, 1)), 6),
    "svd": MethodStyle("#1f9e89", "d", size=6),
    "svd-allocated": MethodStyle("#1f9e89", "D", (0, (1, 1)), 4),
    "lora": MethodStyle("#d81b60", "*", size=8.5),
    "flop": MethodStyle("#00838f", (6, 1, 0), size=8.5),
    "lt-sft": MethodStyle("#a6761d", "<", size=6),
    "fish": MethodStyle("#6f6fd8", (4, 1, 0), size=8.5),
    "llm-surgeon": MethodStyle("#2f4b7c", (8, 1, 0), size=8.5),
    "llm-surgeon-independent": MethodStyle("#7b9fd4", "D"),
    "k-obd": MethodStyle("#d55e00", "P", size=5.5),
    "l-obd": MethodStyle("#e69f00", "v", size=5.5),
    "sparsegpt": MethodStyle("#1f9e89", "s", size=5),
    "wanda": MethodStyle("#7b52ab", "<", size=5.5),
    "surgeon-delta": MethodStyle("#8b1e3f", "H", size=6),
    "surgeon-delta-updated": MethodStyle("#8b1e3f", "d", (0, (5, 1, 1, 1)), 6),
}
OTHERS = [
    MethodStyle(colour, marker, line)
    for line in ((0, (1, 1.5)), (0, (5, 1, 1, 1)))
    for marker in ("P", "X", "p", "h", "<", ">", "*", "d")
    for colour in ("#cc79a7", "#56b4e9", "#8c6d1f", "#7b52ab", "#b01e50", "#5d8a0f", "#00838f")
]


@dataclass(frozen=True)
class MethodName:
    """Parts of the name of a method: "seeded-rescaled-3bit" is "seeded", rescaled, with kept updates of 3 bits."""

    base: str
    rescaled: bool = False
    bits: int | None = None

    @classmethod
    def of(cls, method: str) -> "MethodName":
        """The parts of a name; of one without a suffix, the name itself."""
        match = _NAME.fullmatch(method)
        bits = int(match["bits"]) if match and match["bits"] else None
        return cls(match["base"], bool(match["rescaled"]), bits) if match else cls(method)


def label(method: str) -> str:
    """Display name of a method. A variant is named after its base; an unknown name stays as it is."""
    name = MethodName.of(method)
    if method in LABELS or name.base not in LABELS:
        return LABELS.get(method, method)
    if name.bits is None:
        return f"{LABELS[name.base]} rescaled"
    return f"{LABELS[name.base]}{', rescaled' if name.rescaled else ''}, {count(name.bits, 'bit')}"


def has_whole_embeddings(method: str) -> bool:
    """Whether the files of a method, or of a variant of it, hold the embeddings in full."""
    return MethodName.of(method).base in WHOLE_EMBEDDINGS


def method_styles(methods: Iterable[str]) -> dict[str, MethodStyle]:
    """Method -> style: fixed for known methods, chosen by a hash of the name for others.

    A variant has the colour and marker of its base. It is dashed and hollow if rescaled, and has the dashes of its
    number of bits. If two names have the same hash, the second in alphabetical order gets the next free style.
    """
    methods = set(methods) - set(CONTROLS)
    bases, taken = dict(FIXED), set()
    for base in sorted({MethodName.of(method).base for method in methods} - FIXED.keys()):
        start = int.from_bytes(hashlib.sha256(base.encode()).digest()[:4], "big")
        indices = ((start + step) % len(OTHERS) for step in range(len(OTHERS)))
        index = next((index for index in indices if index not in taken), start % len(OTHERS))
        taken.add(index)
        bases[base] = OTHERS[index]
    return {method: _method_style(MethodName.of(method), bases) for method in sorted(methods)}


def _method_style(name: MethodName, bases: dict[str, MethodStyle]) -> MethodStyle:
    chosen = bases[name.base]
    if name.rescaled:
        chosen = replace(chosen, line=(0, (5, 1.5)), size=5, hollow=True)
    return replace(chosen, line=(0, DASHES[name.bits])) if name.bits else chosen


def count(number: float, noun: str, plural: str | None = None) -> str:
    """A number of things: "1 cell", "2 cells"."""
    return f"{number:.0f} {noun if number == 1 else plural or noun + 's'}"


def listed(parts: Sequence[str], last: str = "and") -> str:
    """Join parts of a sentence: "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {last} {parts[-1]}"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[bool]) -> str:
    """A Markdown table of texts that are already Markdown; `right` says which columns are flush right."""
    lines = [header, ["---:" if flush else "---" for flush in right], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def percent(share: float) -> str:
    """0.025 -> "2.5 %", with a space that does not break."""
    return f"{round(100 * share, 2):g}{NO_BREAK_SPACE}%"


def share(value: float) -> str:
    """A share to a tenth of a percent, "" if there is none."""
    return "" if math.isnan(value) else percent(round(value, 3))


def small_share(value: float) -> str:
    """A share to two significant digits below a tenth: "0.39 %", "" if there is none."""
    return f"{100 * value:.2g}{NO_BREAK_SPACE}%" if value < 0.1 else share(value)


def budget_label(budget: float, unit: str = "share") -> str:
    """A budget with its unit: share of each row (number of entries if above 1) or of bytes, rank, size or bits."""
    if unit == "share":
        return percent(budget) if budget <= 1 else f"k{NO_BREAK_SPACE}={NO_BREAK_SPACE}{budget:g}"
    if unit == "size":
        return f"size{NO_BREAK_SPACE}{percent(budget)}"
    if unit == "bytes":
        return f"{percent(budget)} of the bytes"
    if unit == "bits":
        return f"{budget:g}{NO_BREAK_SPACE}bit{'' if budget == 1 else 's'}"
    return f"{unit}{NO_BREAK_SPACE}{budget:g}"


def setting(method: str, budget: float, unit: str) -> str:
    """A method at a budget: "LoRA rank 4"."""
    return f"{label(method)}{NO_BREAK_SPACE}{budget_label(budget, unit)}"


def with_budget(method: str, budget: float, unit: str) -> str:
    """A method at a budget, in a sentence: "LoRA with rank 4", "KEN with 25 % kept"."""
    return f"{label(method)} with {budget_label(budget, unit)}{' kept' if unit == 'share' else ''}"


def kept(budget: float) -> str:
    """A kept share, or a number of entries if above 1, in a sentence: "25 % of each row"."""
    return f"{budget_label(budget)} of each row" if budget <= 1 else f"{budget:g} entries of each row"


def score(value: float) -> str:
    """A score of 0 to 1 with three decimals, "" if there is none."""
    return "" if math.isnan(value) else f"{value:.3f}"


def points(value: float, decimals: int = 1) -> str:
    """A difference in points with sign, "" if there is none."""
    if math.isnan(value):
        return ""
    text = f"{value:+.{decimals}f}".replace("-", "−")
    return text if float(f"{value:.{decimals}f}") else f"±{text[1:]}"


def loses(points: float) -> str:
    """What a difference in points means, in a sentence: "loses 23.5", "gains 0.1"; the caller adds the unit."""
    return f"{'gains' if round(points, 1) > 0 else 'loses'} {abs(points):.1f}"


def capitalised(text: str) -> str:
    """The text with a capital first letter, at the start of a sentence; the rest stays as it is."""
    return text[:1].upper() + text[1:]


def verdict(word: str) -> str:
    """The words that readers see for a verdict as it is stored in claims.csv; most are the same."""
    return VERDICT_WORDS.get(word, word)


def size(count: float) -> str:
    """Bytes for people: "812 kB", "3.2 MB"; powers of 1000."""
    if math.isnan(count):
        return ""
    power = min(4, int(math.log10(count) // 3)) if count >= 1 else 0
    scaled = count / 1000**power
    digits = f"{scaled:.{0 if scaled >= 99.5 else 1}f}".removesuffix(".0")
    return f"{digits}{NO_BREAK_SPACE}{('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def integer(value: float) -> str:
    """A count with separated thousands, "" if there is none."""
    return "" if math.isnan(value) else f"{value:,.0f}".replace(",", "\u202f")


def span(low: float, high: float, text: Callable[[float], str], merged: bool = False) -> str:
    """A range: "low to high"; "" if there is none. If `merged`, equal ends become one number."""
    if math.isnan(low):
        return ""
    return text(low) if merged and text(low) == text(high) else f"{text(low)} to {text(high)}"


def count_range(counts: "pd.Series", noun: str) -> str:
    """The range of counts in a column: "1 seed", "1 to 3 seeds"."""
    if counts.empty:
        return f"no {noun}s"
    low, high = int(counts.min()), int(counts.max())
    return count(low, noun) if low == high else f"{low} to {high} {noun}s"


def p_value(value: float) -> str:
    """A p-value with three decimals, or "< 0.001"."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
