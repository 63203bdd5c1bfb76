"""Forms: how one tensor is stored. A form is one folder here, found by its name, the `method` of plans and manifests.

`form.py` has `FORM` and `EXAMPLES`, plans that the contract tests try on a matrix [16, 64].

`FORM` is a frozen dataclass of what a plan says of one tensor: its arrays and exact bytes, what a manifest
says beside the plan, decoding, verifying, what the native decoder multiplies by, words for people. It imports no torch,
so that checkpoints are read without. `encode.py` finds the arrays and may import anything (forms/encoding.py).

Nobody outside asks for a form's name, only for what it can do.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from mediant.checked_fields import checked_fields
from mediant.errors import PlanError
from mediant.forms.parts import Parts, check_arrays, check_finite, nbytes
from mediant.models.matrix_form import from_matrix
from mediant.values import Array, Certificate, Drop, RowSpan, TensorInfo

if TYPE_CHECKING:
    from mediant.kernels.block_sparse import BlockSparse
    from mediant.kernels.packed_matrix import PackedMatrix

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Arrays = Mapping[str, Array]
# Side information: what a file says of a tensor beside its plan. Each form has a type of its own, or None.
Side = Any
Ledger = Literal["quantized", "pruned", "factored", "cast"]
Coding = Literal["fixed", "entropy"]


@dataclass(frozen=True)
class Words:
    """A form for people to read.

    `short` and `full` say how weights are stored, the latter with the methods that found it. `depth` is the bit width
    of codes, or their range and mean over rows; None where only the bytes of all arrays tell. `fields` are for JSON.
    """

    short: str
    full: str
    depth: str | None = "–"
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Views:
    """A matrix for the native decoder: whole, and then with less and less of it.

    `linears` are native operators, the first of the whole matrix; `bits` are the most that each reads of a code, `runs`
    the bit widths of all codes where there are any, `drops` the places of the views in the order in which the model
    gives up bits, where the file has one. `packed` are the matrices behind them, where kernels multiply by codes.
    """

    linears: tuple[Any, ...]
    bits: tuple[int, ...] = ()
    runs: tuple[RowSpan, ...] = ()
    drops: tuple[Drop, ...] = ()
    packed: tuple[PackedMatrix, ...] = ()
    name: str = ""

    @property
    def codes(self) -> int:
        """Number of codes."""
        return sum(run.rows for run in self.runs) * int(self.linears[0].columns)

    def code_bits(self, view: int) -> int:
        """Bits of all codes that a view reads."""
        return sum(run.rows * min(run.bits, self.bits[view]) for run in self.runs) * int(self.linears[0].columns)


@dataclass(frozen=True)
class Codes:
    """Codes of a matrix that can learn: by run, `tables` of levels and `codes` [rows, columns].

    scales: [rows, groups]. zeros: [rows, groups], or None. rotation: seed of the basis in which all this is, or None.
    """

    tables: tuple[Floats, ...]
    codes: tuple[Bytes, ...]
    scales: Floats
    zeros: Floats | None
    group: int
    rotation: int | None


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

    def with_drops(self, drops: tuple[Drop, ...]) -> Form:
        """Returns this form with an order in which leading bits can be read alone; itself if it has no such bits."""
        return self

    def stored_row(self, info: TensorInfo) -> tuple[int, int]:
        """Columns of a row as they are stored, and rows that are stored together."""
        return info.matrix_shape[1], 1

    def shared_bytes(self) -> int:
        """Bytes that all rows of one bit width share, such as a table of levels."""
        return 0

    def to_dict(self) -> dict[str, Any]:
        """A JSON form: `method`, then the fields, without those that are as usual."""
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        defaults = {f.name: _default(f) for f in dataclasses.fields(self) if f.name in self.usual}
        kept = {name: value for name, value in data.items() if name not in defaults or value != defaults[name]}
        return {"method": self.method, **{k: dict(v) if isinstance(v, Mapping) else v for k, v in kept.items()}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`, without `method`.

        Raises:
            ValueError: it is anything else.
        """
        return cls(**checked_fields(cls, dict(data)))

    @classmethod
    def of_recipe(cls, settings: Mapping[str, Any], runs: tuple[RowSpan, ...]) -> Self:
        """The form with what the fields of a recipe of the same names say, and these bit widths if it has any."""
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
        """The inverse of `side_to_dict`.

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
        """Bytes of all arrays; arguments and errors as for `parts`."""
        return nbytes(self.parts(info, side))

    def decode(self, info: TensorInfo, arrays: Arrays, side: Side, planes: int | None = None) -> Floats:
        """The weights in the tensor's own shape, float32.

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
        """The weights as a matrix [rows, columns]; else as `decode`."""
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
        """The part of `verify` that looks into arrays of the right types and shapes, of finite numbers."""

    def verify_mapped(self, info: TensorInfo, arrays: Arrays, side: Side) -> None:
        """The part of `verify` that tells finite weights whatever the codes are; few bytes are read."""

    # Abilities

    def with_row_gains(self, info: TensorInfo, arrays: Arrays, gains: Floats) -> dict[str, Array]:
        """The arrays of the matrix whose rows are multiplied by gains [rows], as far as the form can say so."""
        raise NotImplementedError

    def codes(self, info: TensorInfo, arrays: Arrays, side: Side) -> Codes:
        """The codes of a trainable form.

        Raises:
            PlanError: they are of a kind that cannot learn.
        """
        raise NotImplementedError

    def with_codes(self, info: TensorInfo, arrays: Arrays, codes: Sequence[Bytes]) -> dict[str, Array]:
        """The arrays with other codes, by run."""
        raise NotImplementedError

    def other_coding(self, info: TensorInfo, arrays: Arrays, side: Side) -> int:
        """Bytes that the same codes would take more, or less than 0, in the coding that is not `coding`.

        Raises:
            ValueError: the codes cannot be decoded.
        """
        return 0

    def mapped(self, info: TensorInfo) -> bool:
        """True if kernels read the arrays where they lie in the file, so that nobody checks their hashes."""
        return False

    def views(self, info: TensorInfo, arrays: Arrays, side: Side) -> Views | None:
        """Returns the arrays that the native decoder multiplies by; None to decode the matrix."""
        return None

    def in_blocks(self, info: TensorInfo, side: Side) -> bool:
        """True if only some blocks of the matrix are not zero, equally many in each row of blocks."""
        return False

    def blocks(self, info: TensorInfo, arrays: Arrays, side: Side) -> BlockSparse:
        """The blocks that are not zero, where there are such."""
        raise NotImplementedError

    def words(self) -> Words:
        """The form for people to read."""
        return Words(self.method, self.method)


@dataclass(frozen=True)
class Encoding:
    """One approximated tensor: its arrays exactly as they are stored, and how to read them."""

    info: TensorInfo
    plan: Form
    parts: Mapping[str, Array]
    certificate: Certificate | None = None
    side: Side = None

    def __post_init__(self) -> None:
        if self.side is None:
            object.__setattr__(self, "side", self.plan.side_of(self.info, self.parts))

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(int(array.nbytes) for array in self.parts.values())

    def decode(self, planes: int | None = None) -> Floats:
        """The weights in the tensor's own shape; as `Form.decode`."""
        return self.plan.decode(self.info, self.parts, self.side, planes)

    def verify(self) -> None:
        """Refuses arrays that are not sound; as `Form.verify`."""
        self.plan.verify(self.info, self.parts, self.side)


def names() -> tuple[str, ...]:
    """Names of all forms, in alphabetical order."""
    return _names(tuple(__path__))


@cache
def _names(path: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(module.name for module in pkgutil.iter_modules(path) if module.ispkg))


def form(method: str) -> type[Form]:
    """The form of that name.

    Raises:
        ValueError: there is none.
    """
    if method not in names():
        raise ValueError(f"there is no method {str(method)[:60]!r}; the methods are: {', '.join(names())}")
    found: type[Form] = importlib.import_module(f"{__name__}.{method}.form").FORM
    return found


def asked_by(field: str) -> type[Form]:
    """The form that a field of a recipe asks for, such as `pattern`."""
    return next(kind for kind in map(form, names()) if kind.asked_by == field)


def from_dict(data: object) -> Form:
    """The inverse of `Form.to_dict`.

    Raises:
        ValueError: it is no form of a tensor.
    """
    if not isinstance(data, dict) or not isinstance(data.get("method"), str):
        raise ValueError("it does not name its method")
    return form(data["method"]).from_dict({name: value for name, value in data.items() if name != "method"})


def kept(dtype: str, bias_correction: bool = False) -> Form:
    """The form of a tensor that is kept as numbers of a type; a bias may take up the mean error of its weight."""
    found = {"method": "cast", "dtype": dtype, **({"bias_correction": True} if bias_correction else {})}
    return from_dict(found)


def keep(info: TensorInfo, values: Floats, dtype: str) -> Encoding:
    """A tensor kept as numbers of a type.

    Raises:
        PlanError: they do not fit the type.
    """
    plan: Any = kept(dtype)
    return Encoding(info, plan, plan.stored(values, info.name))


def needs(plans: Iterable[Form]) -> frozenset[str]:
    """Names what encoding by any of the plans asks of calibration."""
    return frozenset().union(*(plan.needs() for plan in plans))


def _default(of: dataclasses.Field[Any]) -> Any:
    return of.default if of.default_factory is dataclasses.MISSING else of.default_factory()
