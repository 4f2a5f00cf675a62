"""The selection of the authors' released code (`ken-grid`), which is not the algorithm of the paper.

For each row, k points evenly spaced from its minimum to its maximum choose in the order of their rounded
density; each takes the nearest entry not yet taken. So every stretch of the range keeps an entry, and the
tails are kept on purpose.
"""

import numpy as np
import torch

from ken import kde


def grid_mask(rows: torch.Tensor, k: int) -> torch.Tensor:
    """Kept entries by the released code's rule.

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
            mask[varied] = torch.from_numpy(_varied_rows(values[varied].numpy(), k))
    return mask.to(rows.device)


def _varied_rows(rows: np.ndarray, k: int) -> np.ndarray:
    points = np.linspace(rows.min(1), rows.max(1), k, axis=1)
    density = kde.density(torch.from_numpy(rows), at=torch.from_numpy(points)).numpy()
    visits = np.argsort(-np.rint(density), axis=1, kind="stable")
    return _EntryGroups(rows).take_nearest(np.take_along_axis(points, visits, 1))


class _EntryGroups:
    """The entries of all rows, sorted, equal entries of a row as one group that is used up in row order.

    Everything is flat over (row, sorted place): a group is named by the place of its first entry. `left` and
    `right` point from a used-up group towards the nearest group that may still have entries, and are
    shortened when followed.
    """

    def __init__(self, rows: np.ndarray):
        self.shape = rows.shape
        r, n = rows.shape
        self.order = np.argsort(rows, axis=1, kind="stable")
        self.sorted = np.take_along_axis(rows, self.order, 1)
        first = np.ones((r, n), dtype=bool)
        first[:, 1:] = self.sorted[:, 1:] != self.sorted[:, :-1]
        places = np.arange(n)
        self.group = np.maximum.accumulate(np.where(first, places, 0), axis=1)
        following = np.minimum.accumulate(np.where(first, places, n)[:, ::-1], axis=1)[:, ::-1]
        self.next = np.concatenate([following[:, 1:], np.full((r, 1), n)], axis=1)
        self.used = np.zeros((r, n), dtype=np.int64)
        # One more place on each side: -1 (stored as place 0 of `left` shifted by one) and n mean "none".
        self.left = np.tile(np.arange(-1, n), (r, 1))
        self.right = np.tile(np.arange(n + 1), (r, 1))

    def take_nearest(self, points: np.ndarray) -> np.ndarray:
        """Let the points of each row (r, k) take, in their order, the nearest entry left; (r, n) mask."""
        r = len(self.order)
        rows = np.arange(r)
        inserts = np.stack([np.searchsorted(self.sorted[i], points[i]) for i in range(r)])
        for visit in range(points.shape[1]):
            point, insert = points[:, visit], inserts[:, visit]
            below = np.where(insert > 0, self.group[rows, insert - 1], -1)
            left, right = self._follow(self.left, below, 1), self._follow(self.right, insert, 0)
            takes_left = self._left_is_nearer(rows, point, left, right)
            self._use(rows, np.where(takes_left, left, right))
        taken = np.take_along_axis(self.used > 0, self.group, 1)
        mask = np.empty(self.shape, dtype=bool)
        np.put_along_axis(mask, self.order, taken, 1)
        return mask

    def _follow(self, pointers: np.ndarray, start: np.ndarray, offset: int) -> np.ndarray:
        rows, place = np.arange(len(start)), start
        while True:
            target = pointers[rows, place + offset]
            if (target == place).all():
                break
            pointers[rows, place + offset] = pointers[rows, target + offset]
            place = target
        pointers[rows, start + offset] = place
        return place

    def _left_is_nearer(self, rows, point, left, right) -> np.ndarray:
        n = self.shape[1]
        to_left = np.where(left >= 0, np.abs(self.sorted[rows, left] - point), np.inf)
        at_right = np.minimum(right, n - 1)
        to_right = np.where(right < n, np.abs(self.sorted[rows, at_right] - point), np.inf)
        # Equally near: the first in row order.
        earlier = self._position(rows, left) < self._position(rows, at_right)
        return (to_left < to_right) | ((to_left == to_right) & earlier)

    def _position(self, rows, group) -> np.ndarray:
        place = np.minimum(group + self.used[rows, group], self.shape[1] - 1)
        return self.order[rows, place]

    def _use(self, rows, group) -> None:
        self.used[rows, group] += 1
        following = self.next[rows, group]
        empty = group + self.used[rows, group] == following
        rows, group, following = rows[empty], group[empty], following[empty]
        self.right[rows, group] = following
        self.left[rows, group + 1] = np.where(group > 0, self.group[rows, group - 1], -1)
