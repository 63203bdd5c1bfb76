"""The contract of a form: what a plan says of one tensor, and what can be asked of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from mediant.checked_fields import checked_fields
from mediant.errors import PlanError
from mediant.forms.answers import Bytes, Codes, Floats, Views, Words
from mediant.forms.parts import Parts, check_arrays, check_finite, nbytes
from mediant.models.matrix_form import from_matrix
from mediant.values import Array, RowSpan, TensorInfo, Truncation

if TYPE_CHECKING:
    from mediant.kernels.block_sparse_matrix import BlockSparse

Arrays = Mapping[str, Array]
# Side information: what a file says of a tensor beside its plan. Each form has a type of its own, or None.
Side = Any
Ledger = Literal["quantized", "pruned", "factored", "cast"]
Coding = Literal["fixed", "entropy"]


@dataclass(frozen=True)
class Form:
    """What a plan says of one tensor; each form adds its fields. Members not overridden mean "cannot do that"."""

    method: ClassVar[str]
    ledger: ClassVar[Ledger] = "quantized"
    # The field of a recipe or a command that asks for it, beside the field `method`.
    asked_by: ClassVar[str] = ""
    # True if it goes by the weights alone; others take a matrix with its metric.
    plain: ClassVar[bool] = False
    # True if only encoding tells how long its arrays are.
    measured: ClassVar[bool] = False
    # True if decoding is too slow for every start of the native decoder.
    slow: ClassVar[bool] = False
    # How long its codes are, for those that could also be stored in the other coding.
    coding: ClassVar[Coding | None] = None
    # Fields of a manifest's entry that its side information takes.
    side_fields: ClassVar[tuple[str, ...]] = ()
    # Fields of the plan that are left out where they have their usual value.
    usual: ClassVar[tuple[str, ...]] = ()

    @property
    def bias_correction(self) -> bool:
        """True if the tensor takes up the mean error of its module's weight."""
        return False

    @property
    def tunable(self) -> bool:
        """True if its rows can take up gains that are learned after rounding."""
        return True

    @property
    def trainable(self) -> bool:
        """True if its codes can learn (`codes`, `with_codes`)."""
        return False

    @property
    def packs(self) -> bool:
        """True if kernels multiply by its codes as they lie in the file."""
        return False

    @property
    def rotation(self) -> int | None:
        """Seed of the rotation of the columns in which the matrix is encoded; None in the model's own basis."""
        return None

    @property
    def runs(self) -> tuple[RowSpan, ...]:
        """Bit widths of the rows' codes, where these are of a fixed length."""
        return ()

    # Plans

    def check(self, info: TensorInfo) -> None:
        """Refuses a tensor that it does not fit, or a method that does not exist.

        Raises:
            PlanError: with the first fault.
        """
        self.parts(info, self.side(info))

    def needs(self) -> frozenset[str]:
        """Names what encoding asks of calibration, such as `hessian`."""
        return frozenset()

    def with_runs(self, runs: tuple[RowSpan, ...]) -> Form:
        """Returns this form with other bit widths.

        Raises:
            PlanError: it has none.
        """
        raise PlanError(f"The method {self.method!r} has no bit widths by rows.")

    def with_truncations(self, truncations: tuple[Truncation, ...]) -> Form:
        """Returns this form with an order in which leading bits can be read alone; itself if it has no such bits."""
        return self

    def stored_row(self, info: TensorInfo) -> tuple[int, int]:
        """Returns columns of a row as they are stored, and rows that are stored together."""
        return info.matrix_shape[1], 1

    def shared_bytes(self) -> int:
        """Returns the bytes that all rows of one bit width share, such as a table of levels."""
        return 0

    def to_dict(self) -> dict[str, Any]:
        """Returns a JSON form: `method`, then the fields, without those that are as usual."""
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        defaults = {f.name: _default(f) for f in dataclasses.fields(self) if f.name in self.usual}
        kept = {name: value for name, value in data.items() if name not in defaults or value != defaults[name]}
        return {"method": self.method, **{k: dict(v) if isinstance(v, Mapping) else v for k, v in kept.items()}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Returns the inverse of `to_dict`, without `method`.

        Raises:
            ValueError: it is anything else.
        """
        return cls(**checked_fields(cls, dict(data)))

    @classmethod
    def of_recipe(cls, settings: Mapping[str, Any], runs: tuple[RowSpan, ...]) -> Self:
        """Returns the form with what the fields of a recipe of the same names say, and these bit widths if it has
        any.
        """
        return cls(**{f.name: settings[f.name] for f in dataclasses.fields(cls) if f.name in settings})

    # Files

    def side(self, info: TensorInfo) -> Side:
        """Side information as far as the plan tells; None if there is none, or only encoding tells.

        Raises:
            PlanError: a method of the plan does not exist or does not fit.
        """
        return None

    def side_of(self, info: TensorInfo, arrays: Arrays) -> Side:
        """Side information of a tensor that has been encoded; errors as for `side`."""
        return self.side(info)

    def side_to_dict(self, side: Side) -> dict[str, Any]:
        """Converts side information to the manifest's JSON, field by field."""
        return {}

    def side_from_dict(self, info: TensorInfo, given: Mapping[str, Any], parts: Parts) -> Side:
        """Returns the inverse of `side_to_dict`.

        Args:
            info: the tensor.
            given: the fields of the entry that are among `side_fields`, each an object.
            parts: type and shape of the arrays that the file has.

        Raises:
            ValueError: no Mediant writes such fields.
        """
        return None

    def parts(self, info: TensorInfo, side: Side = None) -> Parts:
        """Type and shape of every array, by name, in the order of the format description.

        Without side information, that of the plan; where only encoding tells, arrays as short as they can be.

        Raises:
            PlanError: the form does not fit the tensor.
        """
        raise NotImplementedError

    def nbytes(self, info: TensorInfo, side: Side = None) -> int:
        """Returns the bytes of all arrays; arguments and errors as for `parts`."""
        return nbytes(self.parts(info, side))

    def decode(self, info: TensorInfo, arrays: Arrays, side: Side, planes: int | None = None) -> Floats:
        """Returns the weights in the tensor's own shape, float32.

        Args:
            info: the tensor.
            arrays: sound ones (`verify`).
            side: as the file says it.
            planes: read only so many leading bits of every code, and all of those that have no more. What is not in
                codes of a fixed length is read whole.

        Raises:
            ValueError: a code has no level, coded numbers are not sound, or leading bits have no levels of their own.
        """
        return np.asarray(from_matrix(self.matrix(info, arrays, side, planes), info))

    def matrix(self, info: TensorInfo, arrays: Arrays, side: Side, planes: int | None = None) -> Floats:
        """Returns the weights as a matrix [rows, columns]; else as `decode`."""
        raise NotImplementedError

    def verify(self, info: TensorInfo, arrays: Arrays, side: Side) -> None:
        """Refuses arrays that are not those of the plan or do not decode to finite weights.

        Raises:
            CheckpointError: one sentence about the first fault.
            PlanError: the plan does not fit the tensor.
        """
        expected = self.parts(info, side)
        check_arrays(info, arrays, expected)
        check_finite(info, arrays, expected)
        self.verify_sound(info, arrays, side)

    def verify_sound(self, info: TensorInfo, arrays: Arrays, side: Side) -> None:
        """Does the part of `verify` that looks into arrays of the right types and shapes, of finite numbers."""

    def verify_mapped(self, info: TensorInfo, arrays: Arrays, side: Side) -> None:
        """Does the part of `verify` that tells finite weights whatever the codes are; few bytes are read."""

    # Abilities

    def with_row_gains(self, info: TensorInfo, arrays: Arrays, gains: Floats) -> dict[str, Array]:
        """Returns the arrays of the matrix whose rows are multiplied by gains [rows], as far as the form can say so."""
        raise NotImplementedError

    def codes(self, info: TensorInfo, arrays: Arrays, side: Side) -> Codes:
        """Returns the codes of a trainable form.

        Raises:
            PlanError: they are of a kind that cannot learn.
        """
        raise NotImplementedError

    def with_codes(self, info: TensorInfo, arrays: Arrays, codes: Sequence[Bytes]) -> dict[str, Array]:
        """Returns the arrays with other codes, by run."""
        raise NotImplementedError

    def other_coding(self, info: TensorInfo, arrays: Arrays, side: Side) -> int:
        """Returns the bytes that the same codes would take more, or less than 0, in the coding that is not `coding`.

        Raises:
            ValueError: the codes cannot be decoded.
        """
        return 0

    def mapped(self, info: TensorInfo) -> bool:
        """Returns True if kernels read the arrays where they lie in the file, so that nobody checks their hashes."""
        return False

    def views(self, info: TensorInfo, arrays: Arrays, side: Side) -> Views | None:
        """Returns the arrays that the native decoder multiplies by; None to decode the matrix."""
        return None

    def in_blocks(self, info: TensorInfo, side: Side) -> bool:
        """Returns True if only some blocks of the matrix are not zero, equally many in each row of blocks."""
        return False

    def blocks(self, info: TensorInfo, arrays: Arrays, side: Side) -> BlockSparse:
        """Returns the blocks that are not zero, where there are such."""
        raise NotImplementedError

    def words(self) -> Words:
        """Returns the form for people to read."""
        return Words(self.method, self.method)


def _default(of: dataclasses.Field[Any]) -> Any:
    return of.default if of.default_factory is dataclasses.MISSING else of.default_factory()
