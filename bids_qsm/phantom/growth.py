"""Growth of a tree of veins: from tissue along the cheapest way to trunks, widening by Murray's law."""

import heapq
from dataclasses import dataclass

import numba
import numpy as np

CELL = 3.0
"""Spacing (mm) of the lattice that veins grow on; each node lies at random within its cell."""
STEP = 1.0
"""Distance (mm) between the points of a vein, about."""


@dataclass(frozen=True)
class Ground:
    """What veins grow in: nodes at random in the cells of a lattice.

    Attributes
    ----------
    points : ndarray, shape (n, 3)
        mm.
    cells : ndarray of int, shape (n, 3)
        The cell of each.
    territory : ndarray of int, shape (n,)
        Ways lead between nodes of the same territory alone.
    cost : ndarray, shape (n,)
        Of 1 mm of way.
    entry, gate : ndarray, shape (n,)
        Cost from the node straight to a trunk, infinite where there is none near, and the trunk's node.
    """

    points: np.ndarray
    cells: np.ndarray
    territory: np.ndarray
    cost: np.ndarray
    entry: np.ndarray
    gate: np.ndarray


@dataclass(frozen=True)
class Nodes:
    """Points (n, 3) of a tree, the index of the next one downstream (-1 at a root) and a label of each.

    A node comes after the one that it flows into.
    """

    points: np.ndarray
    downstream: np.ndarray
    kind: np.ndarray


@numba.njit(cache=True)
def _shortest(
    points: np.ndarray,
    cells: np.ndarray,
    lattice: np.ndarray,
    territory: np.ndarray,
    cost: np.ndarray,
    entry: np.ndarray,
):
    """Shortest-path forest over the 26 neighbours, from all nodes whose ``entry`` cost is finite.

    Ways stay in their territory. Returns the next node on the way, -1 at an entry and -2 where there is no
    way, and the nodes in order of their cost.
    """
    n = len(points)
    best, follow, order = entry.copy(), np.full(n, -2, np.int32), np.empty(n, np.int32)
    done = np.zeros(n, np.bool_)
    heap = [(np.float32(0), np.int32(0)) for _ in range(0)]
    for first in np.flatnonzero(np.isfinite(best)):
        follow[first] = -1
        heapq.heappush(heap, (best[first], np.int32(first)))
    settled = 0
    while heap:
        here, m = heapq.heappop(heap)
        if done[m]:
            continue
        done[m] = True
        order[settled] = m
        settled += 1
        for a in range(max(cells[m, 0] - 1, 0), min(cells[m, 0] + 2, lattice.shape[0])):
            for b in range(max(cells[m, 1] - 1, 0), min(cells[m, 1] + 2, lattice.shape[1])):
                for c in range(max(cells[m, 2] - 1, 0), min(cells[m, 2] + 2, lattice.shape[2])):
                    k = lattice[a, b, c]
                    if k < 0 or done[k] or territory[k] != territory[m]:
                        continue
                    square = np.float32(0)
                    for d in range(3):
                        square += (points[k, d] - points[m, d]) ** 2
                    reached = here + np.sqrt(square) * np.float32(0.5) * (cost[k] + cost[m])
                    if reached < best[k]:
                        best[k] = reached
                        follow[k] = m
                        heapq.heappush(heap, (reached, np.int32(k)))
    return follow, order[:settled]


@numba.njit(cache=True)
def _traffic(follow: np.ndarray, order: np.ndarray, seeds: np.ndarray):
    """How many seeds each node drains."""
    count = np.zeros(len(follow), np.float32)
    for s in seeds:
        if follow[s] > -2:
            count[s] += 1
    for n in range(len(order) - 1, -1, -1):
        m = order[n]
        if follow[m] >= 0:
            count[follow[m]] += count[m]
    return count


def grow(trunks: Nodes, ground: Ground, seeds: np.ndarray, kinds: np.ndarray, *, rounds: int = 2):
    """Grow veins from seeds to trunks along the cheapest ways, which are cheaper where many meet.

    Parameters
    ----------
    trunks : Nodes
    ground : Ground
    seeds : ndarray of int
        Nodes of the ground that veins come from.
    kinds : ndarray of int, shape (n,)
        Labels of the ground's nodes.
    rounds : int
        How often ways are sought; after each, those that drain many seeds get cheaper.

    Returns
    -------
    Nodes
        The trunks, then the veins.
    """
    lattice = np.full(ground.cells.max(0) + 1, -1, np.int32)
    lattice[tuple(ground.cells.T)] = np.arange(len(ground.cells))
    relief = np.ones(len(ground.cells), np.float32)
    for _ in range(rounds):
        follow, order = _shortest(
            ground.points.astype(np.float32),
            ground.cells,
            lattice,
            ground.territory,
            ground.cost * relief,
            ground.entry * relief,
        )
        count = _traffic(follow, order, seeds)
        relief = (1 + count) ** np.float32(-0.3)
    keep = order[count[order] > 0]
    number = np.full(len(count), -1)
    number[keep] = len(trunks.points) + np.arange(len(keep))
    inward = follow[keep] >= 0
    downstream = np.where(inward, number[np.where(inward, follow[keep], 0)], ground.gate[keep])
    nodes = Nodes(
        np.concatenate([trunks.points, ground.points[keep]]),
        np.concatenate([trunks.downstream, downstream]),
        np.concatenate([trunks.kind, kinds[keep]]),
    )
    _relax(nodes.points, nodes.downstream, len(trunks.points), 4)
    return nodes


@numba.njit(cache=True)
def _relax(points: np.ndarray, downstream: np.ndarray, fixed: int, times: int):
    """Straighten ways, in place: nodes go towards the middle of their neighbours; leaves and trunks stay."""
    above, number = np.zeros_like(points), np.zeros(len(points), np.int64)
    for m in range(fixed, len(points)):
        number[downstream[m]] += 1
    for _ in range(times):
        above.fill(0)
        for m in range(fixed, len(points)):
            for d in range(3):
                above[downstream[m], d] += points[m, d]
        for m in range(fixed, len(points)):
            if number[m] > 0:
                for d in range(3):
                    middle = (above[m, d] / number[m] + points[downstream[m], d]) / 2
                    points[m, d] = (points[m, d] + middle) / 2


def flows(nodes: Nodes, sources: np.ndarray, contents: np.ndarray):
    """Sum ``sources`` (n,) downstream, and the mean of ``contents`` (n,) weighted by it."""
    flow, carried = sources.astype(float), sources * contents
    _accumulate(nodes.downstream, flow)
    _accumulate(nodes.downstream, carried)
    return flow, carried / np.maximum(flow, 1e-12)


@numba.njit(cache=True)
def _accumulate(downstream: np.ndarray, amount: np.ndarray):
    for m in range(len(downstream) - 1, -1, -1):
        if downstream[m] >= 0:
            amount[downstream[m]] += amount[m]


def chains(nodes: Nodes, flow: np.ndarray):
    """Unbranched pieces of the part of a tree that has flow; a piece also ends where the label changes.

    Returns
    -------
    tuple of ndarray
        First node of each piece; the points (n, 3) of all pieces, about STEP apart; where in them each piece
        starts, and the end of the last; and the piece that each flows into, -1 at a root.
    """
    wet = flow > 0
    fed = nodes.downstream[wet]
    number = np.bincount(fed[fed >= 0], minlength=len(flow))
    changed = np.zeros(len(flow), bool)
    inner = np.flatnonzero(wet & (nodes.downstream >= 0))
    changed[nodes.downstream[inner]] |= nodes.kind[inner] != nodes.kind[nodes.downstream[inner]]
    stop = (number != 1) | changed | (nodes.downstream < 0)
    heads = np.flatnonzero(wet & stop & (nodes.downstream >= 0))
    points, starts, last = _trace(heads, nodes.points, nodes.downstream, stop, STEP)
    piece = np.full(len(flow), -1)
    piece[heads] = np.arange(len(heads))
    return heads, points, starts, piece[last]


@numba.njit(cache=True)
def _trace(heads: np.ndarray, points: np.ndarray, downstream: np.ndarray, stop: np.ndarray, step: float):
    """Catmull-Rom splines from each head to the next stop."""
    found, starts, last = [points[0] for _ in range(0)], np.empty(len(heads) + 1, np.int64), heads.copy()
    for n, head in enumerate(heads):
        starts[n] = len(found)
        way = [head]
        m = downstream[head]
        while not stop[m]:
            way.append(m)
            m = downstream[m]
        way.append(m)
        last[n] = m
        for k in range(len(way) - 1):
            b, c = points[way[k]], points[way[k + 1]]
            square = 0.0
            for i in range(3):
                square += (c[i] - b[i]) ** 2
            parts = max(int(np.ceil(np.sqrt(square) / step)), 1)
            for p in range(parts):
                t = p / parts
                point = np.empty(3)
                for i in range(3):
                    before = points[way[k - 1], i] if k > 0 else 2 * b[i] - c[i]
                    after = points[way[k + 2], i] if k + 2 < len(way) else 2 * c[i] - b[i]
                    point[i] = 0.5 * (
                        2 * b[i]
                        + (c[i] - before) * t
                        + (2 * before - 5 * b[i] + 4 * c[i] - after) * t**2
                        + (3 * b[i] - before - 3 * c[i] + after) * t**3
                    )
                found.append(point)
        found.append(points[way[-1]].copy())
    starts[len(heads)] = len(found)
    out = np.empty((len(found), 3))
    for n, point in enumerate(found):
        for i in range(3):
            out[n, i] = point[i]
    return out, starts, last
