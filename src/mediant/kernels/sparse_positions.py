"""Where the weights of a sparse matrix are: as few bits as its pattern needs, and known how many beforehand.

Four kinds (forms/sparse/FORMAT.md):

- `mask`: a bit for every weight;
- `ordered`: the positions in ascending order, low bits as they are and the rest as steps in unary (Elias 1974,
  Efficient storage and retrieval by content and address of static files, JACM 21(2)); smaller below a quarter;
- `combinations`: in every group of m neighbours just n are kept: the rank of their set among all of that size, in the
  combinatorial number system (Lehmer 1964): 3 bits for 2 of 4, where a mask has 4;
- `blocks`: a bit for every block of rows x columns, which is kept or not as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from itertools import combinations
from math import comb
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mediant.kernels.bit_planes import pack, packed_bytes, unpack

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Kind = Literal["mask", "ordered", "combinations", "blocks"]
KINDS = ("mask", "ordered", "combinations", "blocks")
# A rank has at most so many bits, as packing takes no more, and belongs to at most so many neighbours.
MOST_BITS, MOST_NEIGHBOURS = 8, 16


@dataclass(frozen=True)
class Positions:
    """How the positions of one matrix [rows, columns] are stored.

    `stored` weights are kept in all, `row` in each row, or 0 where rows differ. With `combinations`, `keep` of `of`
    neighbours; with `blocks`, blocks of `height` x `width`.
    """

    kind: Kind
    rows: int
    columns: int
    stored: int
    row: int = 0
    keep: int = 0
    of: int = 0
    height: int = 0
    width: int = 0

    @classmethod
    def smallest(cls, rows: int, columns: int, stored: int, row: int = 0) -> Positions:
        """Returns a mask, or positions in order where these take fewer bytes."""
        mask, ordered = cls("mask", rows, columns, stored, row), cls("ordered", rows, columns, stored, row)
        return mask if mask.nbytes <= ordered.nbytes else ordered

    def fault(self) -> str:
        """Returns the first thing that is impossible about the positions, in words; empty if nothing is."""
        size = self.rows * self.columns
        if self.kind not in KINDS or not 0 < self.stored <= size or (self.row and self.row * self.rows != self.stored):
            return "the kind is unknown, or the numbers of weights do not fit"
        if self.kind == "combinations":
            fits = (
                0 < self.keep < self.of and self.columns % self.of == 0 and comb(self.of, self.keep) <= 1 << MOST_BITS
            )
            return "" if fits and self.stored * self.of == size * self.keep else "n of m do not fit the matrix"
        if self.kind == "blocks":
            fits = self.height > 0 and self.width > 0 and not self.rows % self.height and not self.columns % self.width
            return "" if fits and self.stored % (self.height * self.width) == 0 else "the blocks do not fit the matrix"
        return ""

    @property
    def nbytes(self) -> int:
        """Bytes of the positions."""
        size = self.rows * self.columns
        if self.kind == "ordered":
            return packed_bytes(self.stored, self._low) * bool(self._low) + -(-self._upper // 8)
        if self.kind == "combinations":
            return packed_bytes(size // self.of, self._rank_bits)
        return packed_bytes(size // (self.height * self.width) if self.kind == "blocks" else size, 1)

    @property
    def _low(self) -> int:
        """Low bits of a position in order: those for which high and low parts are about equally long."""
        return min(MOST_BITS, max(0, (self.rows * self.columns // self.stored).bit_length() - 1))

    @property
    def _upper(self) -> int:
        """Bits of the unary part: one for each position, one for each step of 2^low, and one behind."""
        return self.stored + (self.rows * self.columns >> self._low) + 1

    @property
    def _rank_bits(self) -> int:
        return max(1, (comb(self.of, self.keep) - 1).bit_length())

    def encode(self, mask: Mask) -> Bytes:
        """Returns the stored positions of a mask [rows, columns].

        Raises:
            ValueError: the mask is not of this kind.
        """
        if mask.shape != (self.rows, self.columns) or int(mask.sum()) != self.stored:
            raise ValueError(f"a mask of {mask.shape} with {int(mask.sum())} weights is not what was planned")
        if self.kind == "ordered":
            return self._encode_ordered(np.flatnonzero(mask))
        if self.kind == "combinations":
            groups = mask.reshape(-1, self.of) @ (1 << np.arange(self.of))
            ranks = _ranks(self.of, self.keep)[groups]
            if ranks.max(initial=0) == NO_RANK:
                raise ValueError(f"a group of {self.of} does not keep {self.keep}")
            return pack(ranks.astype(np.uint8), self._rank_bits)
        if self.kind == "blocks":
            blocks = mask.reshape(self.rows // self.height, self.height, self.columns // self.width, self.width)
            if not np.array_equal(blocks.any(axis=(1, 3)), blocks.all(axis=(1, 3))):
                raise ValueError("a block is kept in part")
            return pack(np.asarray(blocks.any(axis=(1, 3)), np.uint8), 1)
        return pack(mask.astype(np.uint8), 1)

    def decode(self, data: Bytes) -> Mask:
        """Returns the inverse of `encode`.

        Raises:
            ValueError: it does not hold as many positions as it should, or as many in each row.
        """
        size = self.rows * self.columns
        if self.kind == "ordered":
            mask = self._decode_ordered(data)
        elif self.kind == "combinations":
            ranks = unpack(data, size // self.of, self._rank_bits)
            if int(ranks.max()) >= comb(self.of, self.keep):
                raise ValueError("a rank is beyond the last combination")
            sets = _sets(self.of, self.keep)[ranks]
            mask = (sets[:, None] >> np.arange(self.of) & 1).astype(np.bool_)
        elif self.kind == "blocks":
            shape = (self.rows // self.height, self.columns // self.width)
            blocks = unpack(data, shape[0] * shape[1], 1).reshape(shape).astype(np.bool_)
            mask = blocks.repeat(self.height, axis=0).repeat(self.width, axis=1)
        else:
            mask = unpack(data, size, 1).astype(np.bool_)
        mask = mask.reshape(self.rows, self.columns)
        if int(mask.sum()) != self.stored or (self.row and not bool((mask.sum(axis=1) == self.row).all())):
            raise ValueError("the positions are not as many as they should be")
        return mask

    def _encode_ordered(self, positions: NDArray[np.int64]) -> Bytes:
        upper = np.zeros(self._upper, np.uint8)
        upper[(positions >> self._low) + np.arange(len(positions))] = 1
        low = (positions & ((1 << self._low) - 1)).astype(np.uint8)
        packed = pack(low, self._low) if self._low else np.zeros(0, np.uint8)
        return np.concatenate([packed, pack(upper, 1)])

    def _decode_ordered(self, data: Bytes) -> Mask:
        begin = packed_bytes(self.stored, self._low) if self._low else 0
        high = np.flatnonzero(unpack(data[begin:], self._upper, 1))
        if len(high) != self.stored:
            raise ValueError("the positions are not as many as they should be")
        positions = (high - np.arange(self.stored)) << self._low
        if self._low:
            positions |= unpack(data, self.stored, self._low)
        if int(positions[-1]) >= self.rows * self.columns or not bool((np.diff(positions) > 0).all()):
            raise ValueError("the positions do not ascend within the matrix")
        mask = np.zeros(self.rows * self.columns, np.bool_)
        mask[positions] = True
        return mask

    def to_dict(self) -> dict[str, Any]:
        """Converts to the manifest's JSON, without the size of the matrix and fields that are 0."""
        found = {name: value for name, value in asdict(self).items() if name not in ("rows", "columns")}
        return {name: value for name, value in found.items() if value}

    @classmethod
    def from_dict(cls, rows: int, columns: int, data: Mapping[str, Any]) -> Positions:
        """Returns the inverse of `to_dict`.

        Raises:
            ValueError: it is anything else.
        """
        numbers = {name: value for name, value in data.items() if name != "kind"}
        known = {"stored", "row", "keep", "of", "height", "width"}
        if (
            set(numbers) - known
            or any(type(n) is not int or n < 1 for n in numbers.values())
            or "stored" not in numbers
        ):
            raise ValueError("the positions have a field that is unknown, missing or not a positive whole number")
        found = cls(data["kind"] if isinstance(data.get("kind"), str) else "?", rows, columns, **numbers)  # type: ignore[arg-type]
        if found.fault() or found.to_dict() != dict(data):
            raise ValueError(found.fault() or "the positions are not as Mediant writes them")
        return found


def has_ranks(keep: int, of: int) -> bool:
    """Returns True if `keep` of `of` neighbours can be stored as ranks.

    >>> has_ranks(2, 4), has_ranks(4, 8), has_ranks(6, 12)
    (True, True, False)
    """
    return 0 < keep < of <= MOST_NEIGHBOURS and comb(of, keep) <= 1 << MOST_BITS


NO_RANK = 1 << MOST_BITS


@cache
def _sets(of: int, keep: int) -> NDArray[np.int64]:
    """Returns all sets of `keep` of `of` places as bits, in the order of their ranks: ascending as binary numbers."""
    return np.array(sorted(sum(1 << i for i in c) for c in combinations(range(of), keep)), np.int64)


@cache
def _ranks(of: int, keep: int) -> NDArray[np.int64]:
    ranks = np.full(1 << of, NO_RANK, np.int64)
    ranks[_sets(of, keep)] = np.arange(comb(of, keep))
    return ranks
