"""The selection of the authors' released code (`ken-grid`), which is not the algorithm of the paper.

In each row, k evenly spaced points from the minimum to the maximum are visited in the order of their rounded density.
Each takes the nearest free entry. So entries are kept in every part of the range, including the tails.
"""

import numpy as np
import torch

from ken import kde


def grid_mask(rows: torch.Tensor, k: int) -> torch.Tensor:
    """Kept entries by the rule of the released code.

    Args:
        rows: (r, n) fine-tuned values, finite and floating.
        k: entries chosen in each row, at least 1; rows with n <= k are kept whole.

    Returns:
        (r, n) bool, True for every entry equal to a chosen one; a row of equal entries is kept whole.
    """
    mask = torch.ones(rows.shape, dtype=torch.bool)
    if rows.shape[1] > k:
        values = rows.double().cpu()
        varied = values.amin(1) < values.amax(1)
        if varied.any():
            mask[varied] = _varied_rows(values[varied], k)
    return mask.to(rows.device)


def _varied_rows(rows: torch.Tensor, k: int) -> torch.Tensor:
    points = torch.from_numpy(np.linspace(rows.amin(1).numpy(), rows.amax(1).numpy(), k, axis=1))
    visits = torch.sort(kde.density(rows, at=points).round_(), dim=1, descending=True, stable=True).indices
    return _Entries(rows).take_nearest(points.gather(1, visits))


class _Entries:
    """The sorted entries of all rows, which points take one by one.

    The arrays are flat over (row, slot); a slot is an index in the sorted row. `left[j]` leads from j towards the
    nearest free slot below j. It is j itself if that is slot j - 1, and 0 if none is free. `right[j]` leads to the
    nearest free slot from j on, or n. Both are shortened when followed.
    """

    def __init__(self, rows: torch.Tensor):
        r, self.n = rows.shape
        values = rows.numpy()
        order = np.argsort(values, axis=1)  # twice as fast as a stable sort; `_first` orders equal entries
        ascending = np.take_along_axis(values, order, axis=1)
        self.ascending, self.sorted, self.order = torch.from_numpy(ascending), ascending.ravel(), order.ravel()
        self.entry, self.pointer = np.arange(r) * self.n, np.arange(r) * (self.n + 1)
        self.left = np.tile(np.arange(self.n + 1), r)
        self.right = self.left.copy()

    def take_nearest(self, points: torch.Tensor) -> torch.Tensor:
        """The points of each row (r, k) take, in their order, the nearest entry left; (r, n) mask of those taken."""
        inserts = torch.searchsorted(self.ascending, points).numpy()
        for point, insert in zip(points.numpy().T, inserts.T, strict=True):
            self._take(point, insert)
        taken = (self.right.reshape(-1, self.n + 1)[:, :-1] != np.arange(self.n)).ravel()
        taken = self._with_equal_entries(taken)
        return torch.empty(self.ascending.shape, dtype=torch.bool).scatter_(
            1, torch.from_numpy(self.order).view(self.ascending.shape), torch.from_numpy(taken).view_as(self.ascending)
        )

    def _take(self, point: np.ndarray, insert: np.ndarray) -> None:
        """One point of every row takes an entry."""
        above_left = self._follow(self.left, insert)
        right = self._follow(self.right, insert)
        has_left, has_right = above_left > 0, right < self.n
        to_left = np.where(has_left, point - self.sorted[self.entry + above_left - has_left], np.inf)
        to_right = np.where(has_right, self.sorted[self.entry + right - ~has_right] - point, np.inf)
        takes_left = to_left < to_right
        if (equal := to_left == to_right).any():  # the first in row order
            for row in equal.nonzero()[0]:
                takes_left[row] = self._first(row, above_left[row] - 1) < self._first(row, right[row])
        slot = np.where(takes_left, above_left - 1, right)
        self.left[self.pointer + slot + 1] = slot
        self.right[self.pointer + slot] = slot + 1

    def _follow(self, pointers: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Where the pointers of each row end that begin at `start`."""
        slot = pointers[self.pointer + start]
        moving = (slot != start).nonzero()[0]
        first = moving
        while moving.size:
            at = self.pointer[moving]
            target = pointers[at + slot[moving]]
            on = target != slot[moving]
            slot[moving] = target
            moving = moving[on]
        pointers[self.pointer[first] + start[first]] = slot[first]
        return slot

    def _first(self, row: int, slot: int) -> int:
        """Index in the row of the entry that is next among those equal to the one in a free slot.

        Equal entries are used up in row order, although `left` and `right` take them from both ends.
        """
        values = self.sorted[self.entry[row] : self.entry[row] + self.n]
        start, stop = (int(np.searchsorted(values, values[slot], side)) for side in ("left", "right"))
        pointers = self.right[self.pointer[row] + start : self.pointer[row] + stop]
        used = int((pointers != np.arange(start, stop)).sum())
        return int(np.partition(self.order[self.entry[row] + start : self.entry[row] + stop], used)[used])

    def _with_equal_entries(self, taken: np.ndarray) -> np.ndarray:
        """Flags of the slots taken, and of all slots with a value equal to one taken in their row."""
        begins = np.ones(len(taken), dtype=bool)
        begins[1:] = self.sorted[1:] != self.sorted[:-1]
        begins[self.entry] = True
        if begins.all():
            return taken
        group = np.cumsum(begins) - 1
        return np.bincount(group, weights=taken)[group] > 0
