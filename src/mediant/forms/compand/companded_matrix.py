"""A matrix of companded codes, as it is stored: a bit width, a scale and a centre for every column of every row
cluster.

weight = centre + scale * t, a float32 product, then a float32 sum. t is the level of the code c at a bit width of b
bits:

    u = (c + 1/2) / 2^b,   t = -(3 / sqrt 2) sgn(u - 1/2) ln(1 - |2 u - 1|),

rounded to float32; at 0 bits t is 0. Codes lie bit width by bit width from 1 to 8; within a bit width cluster by
cluster, column by column, row by row; those of one bit width are packed together (kernels/bit_planes.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mediant.kernels.bfloat16 import from_float32, to_float32
from mediant.kernels.bit_planes import pack, packed_bytes, unpack
from mediant.values import Array

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


# Bits that say a group's bit width, the largest bit width, and the most clusters of rows.
WIDTH_BITS = 4
MOST_BITS = 8
MOST_CLUSTERS = 256


def cluster_count(rows: int, size: int) -> int:
    """Returns the number of clusters of about `size` rows."""
    return min(MOST_CLUSTERS, max(1, (2 * rows + size) // (2 * size)))


def cluster_bits(count: int) -> int:
    """Returns the bits that say which of the clusters a row is in."""
    return max(1, (count - 1).bit_length())


def levels(bits: int) -> Floats:
    """T of every code at a bit width, ascending, float32 [2^bits].

    >>> levels(1).astype(float).round(4).tolist()
    [-1.4704, 1.4704]
    """
    u = (np.arange(1 << bits) + 0.5) / (1 << bits)
    t: Floats = (np.sign(u - 0.5) * -3 / np.sqrt(2) * np.log1p(-np.abs(2 * u - 1))).astype(np.float32)
    return t


def table() -> Floats:
    """T by bit width and code, [9, 256]; 0 where there is no such code."""
    found = np.zeros((MOST_BITS + 1, 1 << MOST_BITS), np.float32)
    for bits in range(1, MOST_BITS + 1):
        found[bits, : 1 << bits] = levels(bits)
    return found


LEVELS = table()


@dataclass(frozen=True)
class CompandedMatrix:
    """Codes uint8 [rows, columns], the cluster of each row uint8 [rows]; bit widths uint8, scales and centres float32
    that are bfloat16, all [clusters, columns]. Every cluster has a row.
    """

    codes: Bytes
    clusters: Bytes
    bit_widths: Bytes
    scales: Floats
    centres: Floats

    def matrix(self) -> Floats:
        """Returns the weights [rows, columns]."""
        weights = np.empty(self.codes.shape, np.float32)
        for cluster, rows in enumerate(rows_of(self.clusters, len(self.bit_widths))):
            t = LEVELS[self.bit_widths[cluster], self.codes[rows]]
            weights[rows] = self.centres[cluster] + self.scales[cluster] * t
        return weights

    def parts(self) -> dict[str, Array]:
        """Arrays as they are stored, by name."""
        streams = [pack(np.concatenate(pieces), bits) for bits in range(1, MOST_BITS + 1) if (pieces := self._at(bits))]
        return {
            "codes": np.concatenate(streams) if streams else np.empty(0, np.uint8),
            "bit_widths": pack(self.bit_widths.reshape(-1), WIDTH_BITS),
            "scales": from_float32(self.scales),
            "centres": from_float32(self.centres),
            "clusters": pack(self.clusters, cluster_bits(len(self.bit_widths))),
        }

    def _at(self, bits: int) -> list[Bytes]:
        """Returns codes of one bit width, cluster by cluster; each [columns of that bit width * rows]."""
        found = []
        for cluster, rows in enumerate(rows_of(self.clusters, len(self.bit_widths))):
            columns = np.flatnonzero(self.bit_widths[cluster] == bits)
            if columns.size:
                found.append(self.codes[np.ix_(rows, columns)].T.reshape(-1))
        return found

    @classmethod
    def from_parts(cls, parts: Mapping[str, Array], rows: int, columns: int) -> CompandedMatrix:
        """Returns the inverse of `parts`.

        Raises:
            ValueError: the parts do not fit one another.
        """
        count = len(parts["scales"])
        bit_widths = unpack(parts["bit_widths"], count * columns, WIDTH_BITS).reshape(count, columns)
        clusters = unpack(parts["clusters"], rows, cluster_bits(count))
        if int(bit_widths.max()) > MOST_BITS:
            raise ValueError(f"a group has {int(bit_widths.max())} bits, of at most {MOST_BITS}")
        if int(clusters.max()) >= count or np.bincount(clusters, minlength=count).min() < 1:
            raise ValueError("the clusters of rows are not those that the scales are for")
        if code_bytes(bit_widths, clusters) != parts["codes"].size:
            raise ValueError("there are not as many codes as the bit widths say")
        codes = _unpacked(parts["codes"], bit_widths, clusters)
        return cls(codes, clusters, bit_widths, to_float32(parts["scales"]), to_float32(parts["centres"]))


def rows_of(clusters: Bytes, count: int) -> list[NDArray[np.int64]]:
    """Returns the rows of every cluster, ascending."""
    order = np.argsort(clusters, kind="stable")
    found: list[NDArray[np.int64]] = np.split(order, np.cumsum(np.bincount(clusters, minlength=count))[:-1])
    return found


def code_bytes(bit_widths: Bytes, clusters: Bytes) -> int:
    """Returns the bytes of the codes of groups [clusters, columns] of these bit widths."""
    sizes = np.bincount(clusters, minlength=len(bit_widths))
    weights = [int(((bit_widths == bits).sum(axis=1) * sizes).sum()) for bits in range(MOST_BITS + 1)]
    return sum(packed_bytes(weights[bits], bits) for bits in range(1, MOST_BITS + 1))


def _unpacked(data: Bytes, bit_widths: Bytes, clusters: Bytes) -> Bytes:
    codes = np.zeros((len(clusters), bit_widths.shape[1]), np.uint8)
    members, byte = rows_of(clusters, len(bit_widths)), 0
    sizes = np.array([len(rows) for rows in members])
    for bits in range(1, MOST_BITS + 1):
        weights = int(((bit_widths == bits).sum(axis=1) * sizes).sum())
        if weights == 0:
            continue
        stream, begin = unpack(data[byte:], weights, bits), 0
        byte += packed_bytes(weights, bits)
        for cluster, rows in enumerate(members):
            columns = np.flatnonzero(bit_widths[cluster] == bits)
            piece = stream[begin : begin + columns.size * rows.size]
            codes[np.ix_(rows, columns)] = piece.reshape(columns.size, rows.size).T
            begin += piece.size
    return codes
