"""The selection of the authors' released code (`ken-grid`), which is not the algorithm of the paper.

In each row, k evenly spaced points from the minimum to the maximum are visited in the order of their rounded density.
Each takes the nearest free entry. So entries are kept in every part of the range, including the tails.

On a GPU a point is compared with every entry of its row. On a CPU rows are sorted, and a point is compared with the
nearest free entry on either side. Both keep the same entries.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from ken import kde
from ken.tensors import row_blocks

# Entries of the rows that are processed together. On a CPU, more rows make fewer calls of numpy and use more cache.
_BLOCK = {"cpu": 2**20, "cuda": 2**22}
_CACHED = 2**16  # entries that are sorted together: few enough for the cache of a core
_WORD = 64  # bits


def grid_mask(rows: torch.Tensor, k: int) -> torch.Tensor:
    """Kept entries by the rule of the released code, computed on the device of the rows.

    Args:
        rows: (r, n) fine-tuned values, finite and floating.
        k: entries chosen in each row, at least 1; rows with n <= k are kept whole.

    Returns:
        (r, n) bool, True for every entry equal to a chosen one; a row of equal entries is kept whole.
    """
    mask = torch.ones(rows.shape, dtype=torch.bool, device=rows.device)
    if rows.shape[1] <= k or not len(rows):
        return mask
    on_cpu = rows.device.type == "cpu"
    take = _take_among_sorted if on_cpu else _take_among_all

    def choose(indices: slice) -> None:
        block = rows[indices]
        varied = block.amin(1) < block.amax(1)
        if varied.all():
            mask[indices] = take(block, *_points(block, k))
        elif varied.any():
            mask[indices][varied] = take(block[varied], *_points(block[varied], k))

    blocks = row_blocks(*rows.shape, _BLOCK.get(rows.device.type, _BLOCK["cuda"]))
    with ThreadPoolExecutor(torch.get_num_threads() if on_cpu else 1) as pool:
        list(pool.map(choose, blocks))
    return mask


def _points(rows: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(r, n) rows -> (r, k) float64 points in ascending order, and int64 indices of points in the order of visits."""
    low, high = rows.amin(1, keepdim=True).double(), rows.amax(1, keepdim=True).double()
    points = torch.arange(k, device=rows.device) * ((high - low) / max(1, k - 1)) + low
    points[:, k - 1 :] = high if k > 1 else low
    return points, torch.sort(kde.density(rows, at=points).round_(), dim=1, descending=True, stable=True).indices


def _take_among_all(rows: torch.Tensor, points: torch.Tensor, visits: torch.Tensor) -> torch.Tensor:
    """Mask (r, n) of the entries that points take in the order of visits, and of those equal to them."""
    free, distances = (
        rows.to(torch.float64, copy=True),
        torch.empty(rows.shape, dtype=torch.float64, device=rows.device),
    )
    for point in points.gather(1, visits).split(1, dim=1):
        nearest = torch.sub(free, point, out=distances).abs_().argmin(1, keepdim=True)  # of equal ones the first
        free.scatter_(1, nearest, torch.inf)
    row, column = free.isinf().nonzero(as_tuple=True)
    first = torch.searchsorted(rows.sort(dim=1).values, rows.contiguous())
    taken = torch.zeros(rows.shape, dtype=torch.bool, device=rows.device)
    taken[row, first[row, column]] = True
    return taken.gather(1, first)


def _take_among_sorted(rows: torch.Tensor, points: torch.Tensor, visits: torch.Tensor) -> torch.Tensor:
    """The same for rows on the CPU."""
    entries = _SortedRows(rows)
    slots = entries.slots(points)
    by_visit = (tensor.gather(1, visits).T.contiguous().numpy() for tensor in (points, slots))
    for point, slot in zip(*by_visit, strict=True):
        entries.take_nearest(point, slot)
    return entries.taken()


class _SortedRows:
    """The sorted entries of some rows, which points take one by one.

    A row has `width` slots, a multiple of 64: one with -inf, its n entries in ascending order, and inf in all others.
    `values` is flat over all slots, and `free` has a bit for each. A search to either side always ends, at the latest
    at an infinite value, which is never the nearest. `order` (r, n) has the index of an entry in its row.
    """

    def __init__(self, rows: torch.Tensor):
        r, self.n = rows.shape
        self.width = _WORD * ((self.n + 1) // _WORD + 1)
        self.order, values = np.empty((r, self.n), np.int64), np.empty((r, self.width))
        values[:, 0], values[:, self.n + 1 :] = -np.inf, np.inf
        for block in row_blocks(r, self.n, _CACHED):
            self.order[block], values[block, 1 : self.n + 1] = _sorted(rows[block])
        self.values = values.ravel()
        self.free = np.full(r * self.width // _WORD, ~np.uint64(0))
        self.scratch = np.empty(r, np.uint64), np.empty(r)

    def slots(self, points: torch.Tensor) -> torch.Tensor:
        """Slot of the first entry that is not below a point, of (r, k) points."""
        begins = torch.arange(len(points))[:, None] * self.width
        return torch.searchsorted(torch.from_numpy(self.values).view(-1, self.width), points).add_(begins)

    def take_nearest(self, point: np.ndarray, slot: np.ndarray) -> None:
        """One point of every row takes the nearest entry left; both arguments (r,), the second as `slots` gives it."""
        free, distance = self.scratch
        word, above = slot >> 6, np.left_shift(~np.uint64(0), (slot & 63).view(np.uint64))
        self.free.take(word, out=free, mode="clip")
        right_bits = free & above
        left_bits = np.bitwise_xor(free, right_bits, out=free)
        right = _lowest_bit(*self._seek(right_bits, word, 1))
        left = _highest_bit(*self._seek(left_bits, word, -1))
        to_left = point - self.values.take(left, out=distance, mode="clip")
        to_right = np.subtract(self.values.take(right, out=distance, mode="clip"), point, out=distance)
        takes_left = to_left < to_right
        for row in np.flatnonzero(to_left == to_right):  # the first in row order
            takes_left[row] = self._first(row, left[row]) < self._first(row, right[row])
        nearest = np.where(takes_left, left, right)
        self.free[nearest >> 6] ^= np.left_shift(np.uint64(1), (nearest & 63).view(np.uint64))

    def _seek(self, bits: np.ndarray, word: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Bits and words; where no bit is set, those of the next word with a free slot in one direction."""
        if bits.all():
            return bits, word
        word, empty = word.copy(), np.flatnonzero(bits == 0)
        while empty.size:
            word[empty] += step
            bits[empty] = self.free[word[empty]]
            empty = empty[bits[empty] == 0]
        return bits, word

    def _first(self, row: int, slot: int) -> int:
        """Index in the row of the entry that is next among those equal to the one in a free slot.

        Equal entries are used up in row order, although they are taken from both ends.
        """
        values = self.values[row * self.width : (row + 1) * self.width]
        start, stop = (int(np.searchsorted(values, self.values[slot], side)) for side in ("left", "right"))
        used = int((self._free_slots(row)[start:stop] == 0).sum())
        return int(np.partition(self.order[row, start - 1 : stop - 1], used)[used])

    def _free_slots(self, row: int | slice = slice(None)) -> np.ndarray:
        """uint8 for the slots of a row, or (r, width) for those of all: 1 where a slot is free."""
        octets = self.free.astype("<u8", copy=False).view(np.uint8).reshape(-1, self.width // 8)[row]
        return np.unpackbits(octets, axis=-1, bitorder="little")

    def taken(self) -> torch.Tensor:
        """Mask (r, n) of the entries that were taken, and of those equal to them."""
        taken = self._free_slots()[:, 1 : self.n + 1] == 0
        values = self.values.reshape(-1, self.width)[:, 1 : self.n + 1]
        tied = (values[:, 1:] == values[:, :-1]).any(axis=1)
        if tied.any():
            taken[tied] = _with_equal_neighbours(values[tied], taken[tied])
        mask = torch.empty(taken.shape, dtype=torch.bool)
        return mask.scatter_(1, torch.from_numpy(self.order), torch.from_numpy(taken))


def _with_equal_neighbours(ascending: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Flags of the entries of sorted rows that are equal to one taken in their row."""
    begins = np.ones(ascending.shape, dtype=bool)
    np.not_equal(ascending[:, 1:], ascending[:, :-1], out=begins[:, 1:])
    group = np.cumsum(begins) - 1
    return (np.bincount(group, weights=taken.ravel())[group] > 0).reshape(taken.shape)


def _lowest_bit(bits: np.ndarray, word: np.ndarray) -> np.ndarray:
    """Slot of the lowest bit that is set in a word."""
    slot = word << 6
    slot += np.bitwise_count(~bits & (bits - np.uint64(1)))
    return slot


def _highest_bit(bits: np.ndarray, word: np.ndarray) -> np.ndarray:
    """Slot of the highest bit that is set in a word."""
    # Without bits that follow another, rounding to 53 bits does not reach the next power of two.
    slot = (bits & ~(bits >> np.uint64(1))).astype(np.float64).view(np.int64)
    slot >>= 52  # the exponent
    slot -= 1023
    slot += word << 6
    return slot


def _sorted(rows: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Indices of each row's entries in ascending order, int64, and these entries; both (r, n)."""
    if torch.promote_types(rows.dtype, torch.float32) != torch.float32:
        order = np.argsort(values := rows.numpy(), axis=1)  # unstable: `_first` orders equal entries
        return order, np.take_along_axis(values, order, axis=1)
    # Integers with the bits of the value above and its index below: numpy sorts them in a third of the time of argsort.
    bits = (rows.float() + 0.0).numpy().view(np.int32)  # + 0.0 makes one zero of two
    bits ^= (bits >> 31) & 0x7FFFFFFF  # in the order of the values
    keys = bits.astype(np.int64)
    keys <<= 32
    keys |= np.arange(rows.shape[1])
    keys.sort(axis=1)
    bits = (keys >> 32).astype(np.int32)
    bits ^= (bits >> 31) & 0x7FFFFFFF
    keys &= 0xFFFFFFFF
    return keys, bits.view(np.float32)
