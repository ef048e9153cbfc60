"""Attention over time, over space, inside shifted windows, and between pooled windows; shared by all networks.

Tokens are ``(B, T, H, W, C)``. Windows are cut from the input's own size: what is added to fill the last window is
excluded as a key, nothing ever wraps. Knows nothing about what the tokens mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from stimpute.layers.positions import rotary_angles

AttentionKind = Literal["msa", "swmsa", "sba"]
PART_TOKENS = (
    16384  # without gradients, work goes in parts of about this many tokens: less memory, warmer caches
)
_EXCLUDED = -1e9  # finite, so that a row with nothing to attend to stays finite
MAX_POOLED_TOKENS = 2048


def in_parts(function: Callable[..., Tensor], *tensors: Tensor, dim: int) -> Tensor:
    """``function(*tensors)`` of a function that treats the slices along ``dim`` independently.

    Without gradients it goes slice after slice, ``PART_TOKENS`` of the first tensor at a time; with them, all at once.
    """
    first = tensors[0]
    count = first.shape[dim]
    size = max(1, PART_TOKENS * first.shape[-1] * count // max(first.numel(), 1))
    if torch.is_grad_enabled() or size >= count:
        return function(*tensors)
    parts = zip(*(torch.split(tensor, size, dim=dim) for tensor in tensors), strict=True)
    return torch.cat([function(*part) for part in parts], dim=dim)


def attend(
    query: Tensor, key: Tensor, value: Tensor, attn_bias: Tensor | None = None, *, fused: bool = True
) -> Tensor:
    """Scaled dot-product attention, (N, heads, L, head_dim) -> the same shape.

    ``attn_bias`` is added to the logits and broadcasts to (N, heads, L, L). The plain form is the reference which the fused
    kernel must match.
    """
    if fused:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=attn_bias)
    logits = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    if attn_bias is not None:
        logits = logits + attn_bias
    return logits.softmax(dim=-1) @ value


class MultiHeadAttention(nn.Module):
    """Self-attention over sequences (N, L, C), with an optional rotation by real-valued positions.

    Rotated (Su et al. 2021), scalar products of queries and keys depend on differences of positions only.
    """

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        if embed_dim % num_heads or embed_dim // num_heads % 2:
            raise ValueError(f"embed_dim {embed_dim} does not split into {num_heads} heads of even width")
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.fused = True
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.out = nn.Linear(embed_dim, embed_dim)

    def forward(
        self, tokens: Tensor, attn_bias: Tensor | None = None, angles: Tensor | None = None
    ) -> Tensor:
        """``attn_bias`` broadcasts to (N, heads, L, L); ``angles`` (G, L, head_dim // 2), one for every N / G sequences."""
        n, length, _ = tokens.shape
        qkv = self.qkv(tokens)
        if angles is not None:
            qkv = self._rotated(tokens, qkv, angles)
        query, key, value = qkv.view(n, length, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        bias = None if attn_bias is None else attn_bias.to(query.dtype)
        mixed = attend(query, key, value, bias, fused=self.fused)
        result: Tensor = self.out(mixed.transpose(1, 2).reshape(n, length, -1))
        return result

    def _rotated(self, tokens: Tensor, qkv: Tensor, angles: Tensor) -> Tensor:
        """Queries and keys turned. The quarter-turned features come from quarter-turned weights: cheaper than shuffling."""
        groups, length, half = angles.shape
        width = 2 * self.num_heads * self.head_dim

        def quarter(rows: Tensor) -> Tensor:
            first, second = rows.view(-1, 2, half, *rows.shape[1:]).unbind(dim=1)
            return torch.stack((-second, first), dim=1).flatten(0, 2)

        turned = F.linear(tokens, quarter(self.qkv.weight[:width]), quarter(self.qkv.bias[:width]))
        both = angles.to(qkv.dtype).repeat(1, 1, width // half)[:, None]
        shape = (groups, -1, length, width)
        pairs = qkv[..., :width].reshape(shape) * both.cos() + turned.view(shape) * both.sin()
        return torch.cat((pairs.view(*qkv.shape[:2], width), qkv[..., width:]), dim=-1)


class TemporalAttention(nn.Module):
    """Every cell attends to itself at all other steps. ``positions`` (B, T) rotate queries and keys, if given."""

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(embed_dim, num_heads)

    def forward(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """(B, T, H, W, C) -> the same shape."""
        angles = None if positions is None else rotary_angles(positions, self.attention.head_dim)

        def rows(part: Tensor) -> Tensor:
            b, t, h, w, c = part.shape
            series = part.permute(0, 2, 3, 1, 4).reshape(b * h * w, t, c)
            mixed: Tensor = self.attention(series, angles=angles)
            return mixed.view(b, h, w, t, c).permute(0, 3, 1, 2, 4)

        return in_parts(rows, tokens, dim=2)


class SpatialAttention(nn.Module):
    """Every cell attends to all cells of its own time step."""

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(embed_dim, num_heads)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, H, W, C) -> the same shape."""

        def frames(part: Tensor) -> Tensor:
            b, t, h, w, c = part.shape
            mixed: Tensor = self.attention(part.reshape(b * t, h * w, c))
            return mixed.view(b, t, h, w, c)

        return in_parts(frames, tokens, dim=1)


def window_padding(size: int, window_size: int, shift: int) -> tuple[int, int]:
    """Cells to add before and after an axis so that windows shifted by ``shift`` tile it.

    >>> window_padding(8, 4, 0), window_padding(8, 4, 2), window_padding(6, 4, 0), window_padding(3, 4, 2)
    ((0, 0), (2, 2), (0, 2), (2, 3))
    """
    before = (window_size - shift) % window_size
    after = -(size + before) % window_size
    return before, after


def window_partition(tokens: Tensor, window_size: int) -> Tensor:
    """(B, T, H, W, C) with H and W multiples of the window -> (B, T, rows, cols, window_size**2, C)."""
    b, t, h, w, c = tokens.shape
    s = window_size
    cut = tokens.view(b, t, h // s, s, w // s, s, c).permute(0, 1, 2, 4, 3, 5, 6)
    return cut.reshape(b, t, h // s, w // s, s * s, c)


def window_reverse(windows: Tensor, window_size: int) -> Tensor:
    """The inverse of :func:`window_partition`."""
    b, t, rows, cols, _, c = windows.shape
    s = window_size
    joined = windows.view(b, t, rows, cols, s, s, c).permute(0, 1, 2, 4, 3, 5, 6)
    return joined.reshape(b, t, rows * s, cols * s, c)


class Division:
    """How tokens (B, T, H, W, C) fall into parts of equal size, the smaller ones padded.

    Attributes
    ----------
    real : bool (rows, cols, S), which tokens of each part are not padding; None where all are.
    places : (rows * cols, S, 3), or (1, S, 3) where all parts look alike: where tokens are, in neighbour distances; None: not told.
    centres : (rows * cols, 3): where parts are.
    shape : (H, W) of the raster they cut; None for a graph, a raster of one row.
    nearest, share : (H * W, K) the parts whose centres are nearest to each token, and the weight of each (they sum to 1); None: its
        own part alone counts. Weighted, what comes from outside does not jump where one part meets the next.
    """

    shape: tuple[int, int] | None = None
    nearest: Tensor | None = None
    share: Tensor | None = None

    real: Tensor | None = None
    places: Tensor | None = None
    centres: Tensor | None = None

    def cut(self, tokens: Tensor) -> Tensor:
        """(B, T, H, W, C) -> (B, T, rows, cols, S, C), zeros where padded."""
        raise NotImplementedError

    def join(self, parts: Tensor) -> Tensor:
        """The inverse of :meth:`cut`, padding removed."""
        raise NotImplementedError

    def attn_bias(self, repeats: int) -> Tensor | None:
        """(repeats * rows * cols, 1, 1, S): padded keys are excluded; None where there are none."""
        if self.real is None:
            return None
        rows, cols, cells = self.real.shape
        bias = torch.zeros(self.real.shape, device=self.real.device).masked_fill(~self.real, _EXCLUDED)
        return bias.view(1, rows * cols, 1, 1, cells).expand(repeats, -1, -1, -1, -1).reshape(-1, 1, 1, cells)

    def mean(self, parts: Tensor) -> Tensor:
        """Mean over the real tokens of each part, (B, T, rows, cols, C); 0 for a part of padding only."""
        if self.real is None:
            return parts.mean(dim=4)
        weight = self.real.to(parts.dtype)[..., None]
        return (parts * weight).sum(dim=4) / weight.sum(dim=2).clamp_min(1)


class Windows(Division):
    """How an (H, W) raster falls into windows: padding, and which tokens of each window are real."""

    def __init__(
        self,
        height: int,
        width: int,
        window_size: int,
        shift: int,
        device: torch.device,
        *,
        places: bool = False,
    ) -> None:
        self.size, self.height, self.width = window_size, height, width
        self.shape = (height, width)
        self.top, self.bottom = window_padding(height, window_size, shift)
        self.left, self.right = window_padding(width, window_size, shift)
        padded = any((self.top, self.bottom, self.left, self.right))
        if padded:
            ones = torch.ones(1, 1, height, width, 1, device=device)
            self.real = self.cut(ones)[0, 0, ..., 0] > 0
        if places:
            self._place(device)

    def _place(self, device: torch.device) -> None:
        """Rows and columns as places, the same in every window."""
        s = self.size
        rows = (self.height + self.top + self.bottom) // s
        cols = (self.width + self.left + self.right) // s
        cells, corners = grid_places(s, s, device), grid_places(rows, cols, device) * s
        self.places, self.centres = cells[None], corners

    def cut(self, tokens: Tensor) -> Tensor:
        """(B, T, H, W, C) -> (B, T, rows, cols, window_size**2, C), zeros where padded."""
        return window_partition(
            F.pad(tokens, (0, 0, self.left, self.right, self.top, self.bottom)), self.size
        )

    def join(self, parts: Tensor) -> Tensor:
        """The inverse of :meth:`cut`, padding removed."""
        whole = window_reverse(parts, self.size)
        return whole[:, :, self.top : self.top + self.height, self.left : self.left + self.width]


def grid_places(height: int, width: int, device: torch.device) -> Tensor:
    """(height * width, 3): row, column and 0 of every cell."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack((y, x, torch.zeros_like(y)), dim=-1).reshape(-1, 3).float().to(device)


class Parts(Division):
    """How the nodes of a graph fall into parts: ``members`` (P, S) of node numbers, -1 where padded. Tokens are (B, T, 1, N, C)."""

    def __init__(self, members: Tensor, places: Tensor | None = None) -> None:
        inside = members >= 0
        self.members = members.clamp_min(0)
        self.real = None if bool(inside.all()) else inside[None]
        if places is not None:
            weight = inside[..., None].to(places.dtype)
            self.places = places[self.members]
            self.centres = (self.places * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1)
        flat = torch.arange(members.numel(), device=members.device)[inside.flatten()]
        order = members.flatten()[inside.flatten()]
        self.home = torch.empty_like(flat)
        self.home[order] = flat

    def cut(self, tokens: Tensor) -> Tensor:
        """(B, T, 1, N, C) -> (B, T, 1, P, S, C), zeros where padded."""
        parts = tokens[:, :, :, self.members]
        return parts if self.real is None else parts * self.real[..., None].to(parts.dtype)

    def join(self, parts: Tensor) -> Tensor:
        """The inverse of :meth:`cut`."""
        return parts.flatten(3, 4)[:, :, :, self.home]


class WindowAttention(nn.Module):
    """Attention inside windows of ``window_size`` cells, shifted by ``shift_size`` (SW-MSA, Liu et al. 2021)."""

    def __init__(self, embed_dim: int, num_heads: int, window_size: int, shift_size: int) -> None:
        super().__init__()
        self.window_size, self.shift_size = window_size, shift_size
        self.attention = MultiHeadAttention(embed_dim, num_heads)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, H, W, C) -> the same shape."""
        windows = Windows(tokens.shape[2], tokens.shape[3], self.window_size, self.shift_size, tokens.device)

        def frames(part: Tensor) -> Tensor:
            return windows.join(within_windows(self.attention, windows, windows.cut(part)))

        return in_parts(frames, tokens, dim=1)


def within_windows(
    attention: MultiHeadAttention, division: Division, cut: Tensor, nearness: Nearness | None = None
) -> Tensor:
    """Attention among the real tokens of each part of (B, T, rows, cols, S, C), near ones first if ``nearness`` is given."""
    frames = cut.shape[0] * cut.shape[1]
    bias = division.attn_bias(1 if nearness is not None else frames)
    if nearness is None or division.places is None:
        mixed: Tensor = attention(cut.view(-1, *cut.shape[-2:]), bias)
        return mixed.view_as(cut)
    count = cut.shape[2] * cut.shape[3]
    places = division.places.expand(count, -1, -1)
    excluded = places.new_zeros(count, 1, 1, cut.shape[4]) if bias is None else bias

    def parts(some: Tensor, at: Tensor, without: Tensor) -> Tensor:
        both = nearness(at) + without
        one: Tensor = attention(some.flatten(0, 2), both.repeat(frames, 1, 1, 1))
        return one.view_as(some)

    # parts first, so that they can be taken a few at a time
    flat = cut.reshape(frames, 1, count, *cut.shape[-2:])
    turned = in_parts(
        lambda some, at, without: parts(some.transpose(0, 2), at, without).transpose(0, 2),
        flat.transpose(0, 2), places, excluded, dim=0,
    )  # fmt: skip
    return turned.transpose(0, 2).reshape(cut.shape)


class Nearness(nn.Module):
    """A bias of attention, per head, that favours neighbours and fades with the logarithm of distance; both learned."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.neighbour = nn.Parameter(torch.zeros(num_heads))
        fades = [-3.0 + 4.0 * head / max(num_heads - 1, 1) for head in range(num_heads)]
        self.fade = nn.Parameter(torch.tensor(fades))  # linspace without weights (meta) would load sympy

    def forward(self, places: Tensor) -> Tensor:
        """(P, S, 3) in neighbour distances -> (P, heads, S, S)."""
        apart = torch.cdist(places, places)[:, None]
        heads = (-1, 1, 1)
        close = torch.exp(-0.5 * apart.square())
        return self.neighbour.view(heads) * close - F.softplus(self.fade).view(heads) * torch.log1p(apart)


class BalancedAttention(nn.Module):
    """Spatial Balance Attention (arXiv 2509.18115): inside parts, and between parts, joined.

    The parts are windows of a raster, or those of a graph that is handed in. Inside, tokens attend to their part; between, the
    mean of each part (padding excluded) attends to the means of all parts *at all steps*, so that a cell sees beyond its part
    and beyond its frame. Where steps x parts exceed ``MAX_POOLED_TOKENS`` neighbouring steps share one mean.

    Parameters
    ----------
    nearness : learn a bias by distance (the adjacency bias of the paper); the division must then tell places.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        window_size: int = 4,
        shift_size: int = 0,
        *,
        nearness: bool = False,
    ) -> None:
        super().__init__()
        self.window_size, self.shift_size = window_size, shift_size
        self.inside = MultiHeadAttention(embed_dim, num_heads)
        self.between = MultiHeadAttention(embed_dim, num_heads)
        self.balance = nn.Linear(2 * embed_dim, embed_dim)
        self.near = Nearness(num_heads) if nearness else None
        self.far = Nearness(num_heads) if nearness else None

    def forward(
        self, tokens: Tensor, positions: Tensor | None = None, division: Division | None = None
    ) -> Tensor:
        """(B, T, H, W, C) -> the same shape; ``positions`` (B, T) rotate the pooled tokens in time."""
        parts = division or Windows(
            tokens.shape[2], tokens.shape[3], self.window_size, self.shift_size, tokens.device
        )
        means = in_parts(lambda part: parts.mean(parts.cut(part)), tokens, dim=1)
        between = self._between(means, parts, positions)

        def frames(part: Tensor, outside: Tensor) -> Tensor:
            inside = within_windows(self.inside, parts, parts.cut(part), self.near)
            if parts.nearest is not None and parts.share is not None:
                mixed = (outside.flatten(2, 3)[:, :, parts.nearest] * parts.share[..., None]).sum(dim=3)
                near_and_far: Tensor = self.balance(
                    torch.cat((parts.join(inside), mixed.view_as(part)), dim=-1)
                )
                return near_and_far
            joined = torch.cat((inside, outside[:, :, :, :, None].expand_as(inside)), dim=-1)
            result: Tensor = self.balance(parts.join(joined))
            return result

        return in_parts(frames, tokens, between, dim=1)

    def _between(self, means: Tensor, parts: Division, positions: Tensor | None) -> Tensor:
        b, t, rows, cols, c = means.shape
        group = max(1, math.ceil(t * rows * cols / MAX_POOLED_TOKENS)) if t > 1 else 1
        pooled = pool_steps(means, group)
        steps = pooled.shape[1]
        angles = None
        if positions is not None:
            when = pool_steps(positions, group)
            angles = rotary_angles(when, self.between.head_dim).repeat_interleave(rows * cols, dim=1)
        bias = None
        if parts.real is not None:
            empty = ~parts.real.any(dim=-1).view(-1).repeat(steps)
            bias = torch.zeros(empty.shape, device=empty.device).masked_fill(empty, _EXCLUDED)[
                None, None, None
            ]
        if self.far is not None and parts.centres is not None:
            apart = self.far(parts.centres[None].repeat(1, steps, 1))
            bias = apart if bias is None else apart + bias
        mixed = self.between(pooled.reshape(b, -1, c), bias, angles).view(b, steps, rows, cols, c)
        result: Tensor = mixed.repeat_interleave(group, dim=1)[:, :t]
        return result


def pool_steps(steps: Tensor, group: int) -> Tensor:
    """Means over runs of ``group`` consecutive steps of (B, T, ...); the last run may be shorter.

    >>> pool_steps(torch.tensor([[1.0, 3.0, 5.0]]), 2).tolist()
    [[2.0, 5.0]]
    """
    if group == 1:
        return steps
    return torch.stack([run.mean(dim=1) for run in torch.split(steps, group, dim=1)], dim=1)
