"""Coordinate descent on the codes of a matrix, and exact fits of its scales between the sweeps.

For a row w with codes q = s (l - z) and r = (w - q) G, all steps are exact minima of
E = (w - q) G (w - q)^T, so neither can raise it:

    one code:   q_i <- nearest level to q_i + r_i / G_ii,   r <- r - (change of q_i) G_i
    two codes:  (q_i, q_j) <- the best of their neighbours on the grid, j of those like i
    one scale:  (s, b) <- argmin |w - s l + b 1|_G^2 over one group's s and b = s z
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from driftwell.quantization.formats import Grid, Quantized
from driftwell.quantization.post_training import column_kernel

Zeros = Literal["kept", "whole", "free"]
# a code is left only for one this much nearer (squared), more than rounding errors can feign
MARGIN = 1.0 - 1e-3
# and a pair is taken that gains this share of what one of its steps costs by itself
LEAST = 1e-3
# columns of the largest |G_ij| / sqrt(G_ii G_jj): whom a column is moved with
PARTNERS = 16


@dataclass
class Descent:
    """Rows under way; every step writes into these.

    `values`, `residual` and `codes` are (R, C): q, r and the codes. `scale` and `zero` are (R, G).
    `moved` (R, G, C) holds sum_i l_i G_i over the columns i of each group, and `ones` (G, C) the
    sum of G_i; `gain` (R,) is how much E has fallen.
    """

    grid: Grid
    gram: Tensor
    values: Tensor
    residual: Tensor
    codes: Tensor
    scale: Tensor
    zero: Tensor
    ones: Tensor
    moved: Tensor | None
    gain: Tensor

    @property
    def now(self) -> Grid:
        """The grid as it is."""
        return self.grid.replaced(scale=self.scale, zero=self.zero)

    def energies(self, w: Tensor) -> Tensor:
        """E of every row, (R,)."""
        return ((w - self.values) * self.residual).sum(dim=1)

    def where(self, take: Tensor, other: Descent) -> Descent:
        """This descent, with the rows `take` (R,) of another one."""
        row = take[:, None]
        return replace(
            self,
            values=torch.where(row, other.values, self.values),
            residual=torch.where(row, other.residual, self.residual),
            codes=torch.where(row, other.codes, self.codes),
            scale=torch.where(row, other.scale, self.scale),
            zero=torch.where(row, other.zero, self.zero),
            gain=torch.where(take, other.gain, self.gain),
            moved=None,
        )

    def result(self, like: Grid, w: Tensor) -> Quantized:
        """Codes and scales for the weight `w`, with as many rows of scales as the grid `like`."""
        rows = like.scale.shape[0]
        grid = like.replaced(scale=self.scale[:rows].clone(), zero=self.zero[:rows].clone())
        return Quantized(self.codes, grid, tuple(w.shape), w.dtype)


def begin(w: Tensor, gram: Tensor, codes: Tensor | None, grid: Grid) -> Descent:
    """A descent from codes (R, C) on a grid, or from the weights themselves."""
    scale, zero = column_kernel.spread(grid.scale, w), column_kernel.spread(grid.zero, w)
    grid = grid.replaced(scale=scale.clone(), zero=zero.clone())
    values = w.clone() if codes is None else grid.values(codes)
    return Descent(
        grid, gram.contiguous(), values,
        torch.zeros_like(w) if codes is None else (w - values) @ gram,
        torch.zeros_like(w, dtype=torch.uint8) if codes is None else codes.clone(),
        grid.scale, grid.zero,
        gram.reshape(-1, min(grid.group_size, w.shape[1]), w.shape[1]).sum(dim=1),
        None, w.new_zeros(w.shape[0], dtype=torch.float64),
    )  # fmt: skip


def descend(
    it: Descent, order: Tensor, *, sweeps: int, fit: bool, zeros: Zeros = "kept", pairs: int = 0
) -> None:
    """Sweep over the columns, then over pairs of them, with a fit of the scales around each.

    Args:
        it: rows that are on their grid.
        order: (C,) or, a row each, (R, C) columns in the order of their turns.
        sweeps: how many.
        fit: whether scales are fitted.
        pairs: how many turns over pairs follow, a sweep after each.
        zeros: what becomes of zeros where they are fitted: kept, whole numbers, or any.
    """
    it.moved = _moved(it) if fit else None
    inverse = _inverse(it.gram)
    if column_kernel.applies(it.values, it.gram):
        _compiled(it, inverse, order, sweeps, False, zeros, pairs)
        return
    for turn in range(sweeps + pairs):
        _fit_all(it, zeros)
        if turn >= sweeps:
            _pair_up(it, inverse)
        _sweep(it, inverse, order, forced=False)
    _fit_all(it, zeros)


def settle(it: Descent, order: Tensor) -> None:
    """The first sweep from weights that are on no grid: every column takes a code."""
    inverse = _inverse(it.gram)
    if column_kernel.applies(it.values, it.gram):
        _compiled(it, inverse, order, 1, True, "kept", 0)
    else:
        _sweep(it, inverse, order, forced=True)


def fit_one_scale(it: Descent) -> None:
    """The exact minimum of E over one scale that all rows share; zeros stay."""
    level = it.values / it.scale
    slope = ((level @ it.gram) * level).sum()
    step = (it.residual * level).sum() / slope
    if bool(slope > 0) and bool(it.scale[0, 0] + step > 0):
        it.gain += (2 * step * (it.residual * level).sum(1) - step**2
                    * ((level @ it.gram) * level).sum(1)).double()  # fmt: skip
        it.residual -= step * (level @ it.gram)
        it.scale += step
        it.values = it.scale * level


def _compiled(
    it: Descent, inverse: Tensor, order: Tensor, sweeps: int, forced: bool, zeros: Zeros, pairs: int
) -> None:
    it.gain += column_kernel.descend(
        it.gram, inverse, _partners(it.gram), order.contiguous(), it.ones, it.grid, it.values,
        it.residual, it.moved, it.codes, it.scale, it.zero, sweeps, forced, zeros, pairs,
    )  # fmt: skip


def _inverse(gram: Tensor) -> Tensor:
    """1 / G_ii, and 0 for an input that is always 0."""
    diagonal = gram.diagonal()
    return torch.where(diagonal > 0, 1 / diagonal, torch.zeros_like(diagonal))


def _partners(gram: Tensor) -> Tensor:
    """The columns most like each one, (C, min(PARTNERS, C - 1)) int64, by falling likeness."""
    size = _inverse(gram).sqrt()
    likeness = (size[:, None] * gram * size).abs().fill_diagonal_(-1.0)
    return likeness.topk(min(PARTNERS, len(gram) - 1), dim=1).indices.contiguous()


def _moved(it: Descent) -> Tensor:
    levels = it.grid.levels.to(it.values)[it.codes.long()]
    rows, columns = levels.shape
    groups = it.scale.shape[1]
    by_group = levels.reshape(rows, groups, -1).transpose(0, 1)
    return torch.bmm(by_group, it.gram.reshape(groups, -1, columns)).transpose(0, 1).contiguous()


def _sweep(it: Descent, inverse: Tensor, order: Tensor, forced: bool) -> None:
    """One turn of every column."""
    everyone = torch.arange(len(it.values), device=it.values.device)
    for k in range(order.shape[-1]):
        i = order[..., k].expand(len(everyone))
        group = i // it.grid.group_size
        now = it.values[everyone, i]
        one = it.grid.replaced(
            scale=it.scale[everyone, group, None], zero=it.zero[everyone, group, None]
        )
        t = now + it.residual[everyone, i] * inverse[i]
        code = one.nearest(t[:, None])
        after = one.values(code)[:, 0]
        before_error, after_error = (t - now).double().square(), (t - after).double().square()
        moves = (after_error < MARGIN * before_error) & (inverse[i] > 0)
        moves = moves | forced
        if not moves.any():
            continue
        old = it.codes[everyone, i].long()
        gain = (before_error - after_error) * it.gram[i, i].double()
        it.gain += torch.where(moves, gain, torch.zeros_like(gain))
        _change(it, i, moves * (code[:, 0].long() - old), moves * (after - now))


def _pair_up(it: Descent, inverse: Tensor) -> None:
    """For every column, the best step by one code of it and of a column like it together."""
    rows, columns = it.values.shape
    near = _partners(it.gram)
    everyone = torch.arange(rows, device=it.values.device)
    for turn in range(2 * columns):
        i, way = turn // 2, turn % 2
        step, cost = _neighbours(it)
        t, own = step[:, way, i], cost[:, way, i]
        r = 2 * (it.residual - t[:, None] * it.gram[i])
        gain = (step * r[:, None] - cost)[:, :, near[i]]
        # two ways of one column beside each other, as the compiled loop tries them
        best, at = gain.transpose(1, 2).flatten(1).max(dim=1)
        alone = 2 * t * it.residual[:, i] - own
        moves = (t != 0) & (alone + best > LEAST * own) & (inverse[i] > 0)
        if not moves.any():
            continue
        j, other = near[i][at // 2], at % 2
        u = torch.where(moves, step[everyone, other, j], torch.zeros_like(t))
        t = torch.where(moves, t, torch.zeros_like(t))
        it.gain += torch.where(moves, alone + best, torch.zeros_like(t)).double()
        _change(it, torch.full_like(j, i), moves * (1 - 2 * way), t)
        _change(it, j, moves * (1 - 2 * other), u)


def _neighbours(it: Descent) -> tuple[Tensor, Tensor]:
    """Steps to the next codes above and below, (R, 2, C), and their own costs t^2 G_ii."""
    levels, codes = it.grid.levels.to(it.values), it.codes.long()
    scale = it.scale.repeat_interleave(it.values.shape[1] // it.scale.shape[1], dim=1)
    steps, top = [], len(levels) - 1
    for way in (1, -1):
        step = scale * (levels[(codes + way).clamp(0, top)] - levels[codes])
        steps.append(step)
    step = torch.stack(steps, dim=1)
    cost = step.square() * it.gram.diagonal()
    return step, torch.where(step == 0, torch.full_like(cost, torch.inf), cost)


def _change(it: Descent, columns: Tensor, codes: Tensor, by: Tensor) -> None:
    """Code of one column of each row up or down (or not at all, 0), and its weight `by` as much."""
    everyone = torch.arange(len(columns), device=columns.device)
    levels, old = it.grid.levels.to(it.values), it.codes[everyone, columns].long()
    it.residual -= by[:, None] * it.gram[columns]
    if it.moved is not None:
        lift = levels[old + codes] - levels[old]
        it.moved[everyone, columns // it.grid.group_size] += lift[:, None] * it.gram[columns]
    it.values[everyone, columns] += by
    it.codes[everyone, columns] = (old + codes).to(torch.uint8)


def _fit_all(it: Descent, zeros: Zeros) -> None:
    if it.moved is not None:
        for group in range(it.scale.shape[1]):
            _fit(it, group, it.moved[:, group], zeros)


def _fit(it: Descent, group: int, moved: Tensor, zeros: Zeros) -> None:
    """The exact minimum of E over the scale of one group, and over its zero."""
    size, columns = it.grid.group_size, it.values.shape[1]
    here = slice(group * size, min((group + 1) * size, columns))
    l = it.grid.levels.to(it.values)[it.codes[:, here].long()].double()
    r, m, ones = it.residual[:, here].double(), moved[:, here].double(), it.ones[group]
    ll, lo, oo = (l * m).sum(1), m.sum(1), ones[here].double().sum()
    rl, ro = (l * r).sum(1), r.sum(1)
    s, z = it.scale[:, group].double(), it.zero[:, group].double()
    # what l and 1 see of the target, that is with this group's own q taken out of r
    tl, to = rl + s * (ll - z * lo), ro + s * (lo - z * oo)
    best, best_s, best_z = torch.zeros_like(s), s, z
    top = len(it.grid.levels) - 1
    for k, trial in enumerate(_zeros_to_try(z, tl, to, ll, lo, oo, zeros)):
        cc = ll - 2 * trial * lo + trial.square() * oo
        scale = (tl - trial * to) / cc
        ds, db = scale - s, scale * trial - s * z
        gain = 2 * (ds * rl - db * ro) - (ds * ds * ll - 2 * ds * db * lo + db * db * oo)
        fine = (cc > 0) & (scale * s > 0) & scale.isfinite() & (gain > best)
        if zeros == "whole" and k > 0:
            fine = fine & (trial >= 0) & (trial <= top)
        best = torch.where(fine, gain, best)
        best_s, best_z = torch.where(fine, scale, best_s), torch.where(fine, trial, best_z)
    scale, zero = best_s.to(it.scale), best_z.to(it.zero)
    fall = (scale.double() - s).to(it.scale)
    lift = (scale.double() * zero.double() - s * z).to(it.scale)
    it.residual += lift[:, None] * ones - fall[:, None] * moved
    it.scale[:, group], it.zero[:, group] = scale, zero
    it.values[:, here] = scale[:, None] * (l.to(scale) - zero[:, None])
    it.gain += best


def _zeros_to_try(
    z: Tensor, tl: Tensor, to: Tensor, ll: Tensor, lo: Tensor, oo: Tensor, zeros: Zeros
) -> list[Tensor]:
    if zeros == "kept":
        return [z]
    free = (tl * lo - to * ll) / (tl * oo - to * lo)
    sound = free.isfinite() & (ll * oo - lo * lo > 1e-6 * ll * oo)
    free = torch.where(sound, free, z)
    return [z, free] if zeros == "free" else [z, free.floor(), free.ceil()]
