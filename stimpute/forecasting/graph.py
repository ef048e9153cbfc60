"""The graph of ever-observed cells: where nodes are, which are neighbours, parts of it, Laplacian positions. Knows no networks.

Nodes come in an order of their own (rows and columns of a raster, coordinates of stations), so that nothing depends on the order in
which a file lists them. Distances are in units of the typical distance between neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import coo_matrix, csr_matrix, identity
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import eigsh
from scipy.spatial import cKDTree
from torch import Tensor

from stimpute.grid import EARTH_KM, Grid
from stimpute.layers.attention import Division, Parts, Windows

NEIGHBOURS = 6  # of a station
NEAREST = 5  # parts that a token hears from
HEARD = 6  # nodes that speak for one at which earlier origins are not asked
LARGEST = 1.5  # times the wanted size: parts that METIS leaves larger are cut again

IndexArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes and their neighbours.

    Parameters
    ----------
    cells : int64 (N,), which cells of the flattened grid the nodes are.
    places : float32 (N, 3), in neighbour distances.
    edges : int64 (E, 2), each pair once, smaller number first.
    raster : (rows, columns) where the nodes are all cells of a raster, in order; else None.
    """

    cells: IndexArray
    places: npt.NDArray[np.float32]
    edges: IndexArray
    raster: tuple[int, int] | None

    def __len__(self) -> int:
        return len(self.cells)

    def same_as(self, other: Graph) -> bool:
        """Whether both have the same nodes and the same neighbours."""
        return np.array_equal(self.cells, other.cells) and np.array_equal(self.edges, other.edges)


def graph_of(grid: Grid, ever: npt.NDArray[np.bool_]) -> Graph:
    """The graph of the cells of a grid that were ever observed, ``ever`` (y, x)."""
    ny, nx = grid.shape
    rows, cols = np.nonzero(ever)
    at = _places(grid, rows, cols)
    if grid.kind == "points":
        order = np.lexsort(np.round(at, 9).T)
        rows, cols, at = rows[order], cols[order], at[order]
        edges = _nearest(at)
    else:
        edges = _neighbours(ever, grid.wraps)
    lengths = np.linalg.norm(at[edges[:, 0]] - at[edges[:, 1]], axis=1) if len(edges) else np.ones(1)
    unit = float(np.median(lengths)) or 1.0
    at = (at - at.mean(axis=0)) / unit
    raster = (ny, nx) if grid.kind != "points" and bool(ever.all()) else None
    return Graph(rows * nx + cols, at.astype(np.float32), edges, raster)


def _places(grid: Grid, rows: IndexArray, cols: IndexArray) -> FloatArray:
    """(N, 3) in km: on the sphere for degrees, in the plane otherwise."""
    x, y = grid.coordinates(rows, cols)
    if grid.units == "degrees" and np.isfinite(x).all() and np.isfinite(y).all():
        lon, lat = np.radians(x), np.radians(y)
        return EARTH_KM * np.stack(
            (np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)), axis=1
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        x, y = cols.astype(np.float64), rows.astype(np.float64)
    return np.stack((x, y, np.zeros_like(x)), axis=1) * grid.km_per_unit


def _neighbours(ever: npt.NDArray[np.bool_], wraps: bool) -> IndexArray:
    """Pairs of cells that share a side."""
    number = np.full(ever.shape, -1, dtype=np.int64)
    number[ever] = np.arange(int(ever.sum()))
    pairs = [(number[:, :-1], number[:, 1:]), (number[:-1], number[1:])]
    if wraps and ever.shape[1] > 2:
        pairs.append((number[:, 0], number[:, -1]))
    joined = np.concatenate([np.stack((a.ravel(), b.ravel()), axis=1) for a, b in pairs])
    return np.sort(joined[(joined >= 0).all(axis=1)], axis=1)


def _nearest(at: FloatArray) -> IndexArray:
    """Pairs of stations of which one is among the other's nearest."""
    count = min(NEIGHBOURS + 1, len(at))
    if count < 2:
        return np.zeros((0, 2), dtype=np.int64)
    _, nearest = cKDTree(at).query(at, k=count)
    own = np.repeat(np.arange(len(at)), count)
    pairs = np.sort(np.stack((own, nearest.ravel()), axis=1), axis=1)
    return np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0).astype(np.int64)


# --- parts --------------------------------------------------------------------------------------------------------------


def sides_for(nodes: int, sides: tuple[int, ...]) -> tuple[int, ...]:
    """The sides of parts for a graph of this size: the first grows with its sixth root, so that attention inside parts and between
    them both cost about ``nodes ** (4 / 3)``; the others stay larger than it.

    >>> sides_for(1000, (4, 8, 16)), sides_for(65536, (4, 8, 16)), sides_for(1_000_000, (4, 8, 16))
    ((4, 8, 16), (6, 9, 16), (10, 15, 20))
    """
    first = max(sides[0], round(nodes ** (1 / 6)))
    return tuple(max(side, first * (2 + i) // 2) for i, side in enumerate(sides))


def divisions_of(graph: Graph, sides: tuple[int, ...], device: torch.device | str = "cpu") -> list[Division]:
    """One division for every block: windows of a full raster, the parts that METIS makes of any other graph.

    Windows are shifted by half a side, so that borders of one block lie inside the parts of the next.
    """
    where = torch.device(device)
    wanted = sides_for(len(graph), sides)
    made: list[Division]
    if graph.raster is not None:
        ny, nx = graph.raster
        made = [Windows(ny, nx, s, s // 2 if i else 0, where, places=True) for i, s in enumerate(wanted)]
        cells = np.stack((*np.divmod(np.arange(ny * nx), nx), np.zeros(ny * nx)), axis=1)
    else:
        places = torch.from_numpy(graph.places).to(where)
        made = [Parts(torch.from_numpy(members(graph, side * side)).to(where), places) for side in wanted]
        cells = graph.places.astype(np.float64)
    for division, side in zip(made, wanted, strict=True):
        share_parts(division, cells, side)
    return made


def share_parts(division: Division, cells: FloatArray, side: int) -> None:
    """Give every token weights of the parts nearest to it: a Gaussian of its distance from their centres."""
    if division.centres is None:
        return
    centres = division.centres.cpu().numpy().astype(np.float64)
    if isinstance(division, Windows):  # of a window, the first cell is known, padding counted
        centres = centres + np.array([(side - 1) / 2 - division.top, (side - 1) / 2 - division.left, 0.0])
    count = min(NEAREST, len(centres))
    apart, nearest = cKDTree(centres).query(cells, k=list(range(1, count + 1)))
    weight = np.exp(-(apart**2 - apart[:, :1] ** 2) / (0.6 * side) ** 2)
    share = (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)
    division.nearest = torch.from_numpy(nearest).to(division.centres.device)
    division.share = torch.from_numpy(share).to(division.centres.device)


def members(graph: Graph, size: int) -> IndexArray:
    """(P, S) numbers of the nodes in parts of about ``size``, -1 where padded; no part exceeds ``LARGEST`` times the size."""
    count = -(-len(graph) // size)
    label = np.zeros(len(graph), dtype=np.int64)
    if count > 1:
        label = _metis(graph, count)
    parts = [np.flatnonzero(label == p) for p in range(count)]
    parts = [
        piece for part in parts if len(part) for piece in _cut(part, graph.places, round(LARGEST * size))
    ]
    table = np.full((len(parts), max(len(p) for p in parts)), -1, dtype=np.int64)
    for i, part in enumerate(parts):
        table[i, : len(part)] = part
    return table


def _metis(graph: Graph, count: int) -> IndexArray:
    import pymetis

    near = adjacency(graph).tocsr()
    near.sort_indices()
    _, label = pymetis.part_graph(count, adjacency=pymetis.CSRAdjacency(near.indptr, near.indices))
    return np.asarray(label, dtype=np.int64)


def _cut(part: IndexArray, places: npt.NDArray[np.float32], most: int) -> list[IndexArray]:
    """Halves along the longest extent until none is too large."""
    if len(part) <= most:
        return [part]
    at = places[part]
    axis = int(np.ptp(at, axis=0).argmax())
    order = part[np.argsort(at[:, axis], kind="stable")]
    half = len(order) // 2
    return [*_cut(np.sort(order[:half]), places, most), *_cut(np.sort(order[half:]), places, most)]


def adjacency(graph: Graph, bridges: IndexArray | None = None) -> csr_matrix:
    """(N, N) of ones between neighbours, and over ``bridges`` (E, 2)."""
    n = len(graph)
    a, b = graph.edges.T if bridges is None else np.concatenate((graph.edges, bridges)).T
    ones = np.ones(2 * len(a))
    return coo_matrix((ones, (np.concatenate((a, b)), np.concatenate((b, a)))), shape=(n, n)).tocsr()


def evenly_spread(graph: Graph, count: int) -> tuple[IndexArray, IndexArray, npt.NDArray[np.float32]]:
    """At least ``count`` nodes, fewer than twice as many, evenly spread over the graph; which of them are near to each node, and shares.

    The ``HEARD`` nearest to a node (N, k), counted from 0, and its share in each (N, k), which sum to 1, fall with the distance
    and change from node to node without a step.
    """
    pieces = _cut(np.arange(len(graph)), graph.places, max(len(graph) // count, 1))
    places = graph.places.astype(np.float64)
    middle = [p[np.linalg.norm(places[p] - places[p].mean(axis=0), axis=1).argmin()] for p in pieces]
    nodes = np.sort(np.array(middle, dtype=np.int64))
    apart, near = cKDTree(places[nodes]).query(places, k=list(range(1, min(HEARD + 1, len(nodes)) + 1)))
    share = (1 - apart / np.maximum(apart[:, -1:], 1e-9)) ** 2 + 1e-9
    return nodes, near.astype(np.int64), (share / share.sum(axis=1, keepdims=True)).astype(np.float32)


# --- Laplacian positions --------------------------------------------------------------------------------------------------


def laplacian_positions(graph: Graph, count: int) -> Tensor:
    """(N, count) eigenvectors of the graph's Laplacian with the smallest eigenvalues above 0, of unit variance.

    Cosines where the grid is full (they are known); signs are such that the third moment is positive. Islands are bridged to the
    largest part of the graph: alone, each would have an eigenvalue of 0, and its vectors would say nothing but which island it is.
    """
    n = len(graph)
    if graph.raster is not None:
        vectors = _cosines(graph.raster, count)
    elif n <= count + 2:
        vectors = np.zeros((n, 0))
    else:
        near = adjacency(graph, bridges(graph))
        degree = np.asarray(near.sum(axis=1)).ravel()
        laplacian = (coo_matrix((degree, (np.arange(n), np.arange(n))), shape=(n, n)) - near).tocsc()
        start = np.random.default_rng(0).standard_normal(n)
        shift = min(1e-3, 1 / n)  # smaller than the eigenvalues wanted, or the iterations find no end
        values, vectors = eigsh(
            laplacian + shift * identity(n, format="csc"), k=count + 1, sigma=0.0, v0=start
        )
        vectors = vectors[:, np.argsort(values)][:, 1:]
    vectors = vectors * np.sqrt(n)
    skew = (vectors**3).sum(axis=0)
    vectors = np.where(skew < 0, -vectors, vectors)
    full = np.zeros((n, count))
    full[:, : vectors.shape[1]] = vectors
    return torch.from_numpy(full.astype(np.float32))


def bridges(graph: Graph) -> IndexArray:
    """(islands, 2) the shortest link of every island, a part that no edge leads out of, to the largest part of the graph."""
    _, part = connected_components(adjacency(graph), directed=False)
    main = np.bincount(part).argmax()
    shore, inland = np.flatnonzero(part != main), np.flatnonzero(part == main)
    if not len(shore):
        return np.zeros((0, 2), dtype=np.int64)
    apart, nearest = cKDTree(graph.places[inland]).query(graph.places[shore])
    order = np.lexsort((apart, part[shore]))
    _, first = np.unique(part[shore][order], return_index=True)
    chosen = order[first]
    return np.stack((shore[chosen], inland[nearest[chosen]]), axis=1)


def _cosines(raster: tuple[int, int], count: int) -> FloatArray:
    ny, nx = raster
    waves = [
        (2 - np.cos(np.pi * i / ny) - np.cos(np.pi * j / nx), i, j)
        for i in range(min(ny, count + 1)) for j in range(min(nx, count + 1)) if i or j
    ]  # fmt: skip
    made = []
    for _, i, j in sorted(waves)[:count]:
        wave = np.outer(
            np.cos(np.pi * i * (np.arange(ny) + 0.5) / ny), np.cos(np.pi * j * (np.arange(nx) + 0.5) / nx)
        )
        made.append((wave / np.linalg.norm(wave)).ravel())
    return np.stack(made, axis=1) if made else np.zeros((ny * nx, 0))
