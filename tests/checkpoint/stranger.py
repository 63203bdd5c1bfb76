"""A reader written from FORMAT.md alone: one weight at a time, with nothing of ours and no NumPy."""

from __future__ import annotations

import itertools
import json
import lzma
import math
import re
import struct
from pathlib import Path
from typing import Any

from mediant import checkpoint, forms

_CONTAINER = Path(checkpoint.__file__).parent / "FORMAT.md"
_FORMS = sorted(Path(forms.__path__[0]).glob("*/FORMAT.md"))
PAGE = "\n".join(file.read_text(encoding="utf-8") for file in (_CONTAINER, *_FORMS))
POWERS = [
    struct.unpack(">f", bytes.fromhex(digits))[0]
    for digits in re.findall("`([0-9a-f]{8})`", next(line for line in PAGE.splitlines() if "2^(−j/8)" in line))
]

# The tables of the page's section on tiles.
WIDTHS: dict[str, dict[int, list[int]]] = {
    storage: {
        bits: [int(width) for width in cell.split("+")]
        for bits, cell in enumerate(re.findall(r"[\d+]+", line.partition("` |")[2]), 1)
    }
    for storage in ("tiles", "nested")
    for line in PAGE.splitlines()
    if line.startswith(f"| `{storage}` | 1 |")
}
ONE_BIT = [int(x) for x in re.findall(r"\d+", re.search(r"bit ([\d, and]+) of the byte", PAGE)[1])]  # type: ignore[index]


def float32(value: float) -> float:
    """Rounds a double once to float32."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def hadamard(block: list[float]) -> list[float]:
    width = 1
    while width < len(block):
        for i in range(len(block)):
            if i // width % 2 == 0:
                a, b = block[i], block[i + width]
                block[i], block[i + width] = float32(a + b), float32(a - b)
        width *= 2
    return [float32(x * float32(1 / math.sqrt(len(block)))) for x in block]


def rotated_back(row: list[float], seed: int) -> list[float]:
    """Step 6 of the page for one row."""
    n, p = len(row), len(row) & -len(row)
    k, wrap = n // p, (1 << 64) - 1
    x = [y for b in range(k) for y in hadamard(row[b * p : (b + 1) * p])]
    if k > 1:
        x = [x[i * k + j] for j in range(k) for i in range(p)]
        x = [y for b in range(k) for y in hadamard(x[b * p : (b + 1) * p])]
    for i in range(n):
        z = (seed + (i + 1) * 0x9E3779B97F4A7C15) & wrap
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & wrap
        z = (z ^ z >> 27) * 0x94D049BB133111EB & wrap
        x[i] = -x[i] if (z ^ z >> 31) >> 63 else x[i]
    return x


def companding(code: int, bits: int) -> float:
    """The t of a code with the method `compand`."""
    if bits == 0:
        return 0.0
    u = (code + 0.5) / 2**bits
    return float32(-math.copysign(1, u - 0.5) * (3 / math.sqrt(2)) * math.log(1 - abs(2 * u - 1)))


class Stranger:
    """Reads a checkpoint by FORMAT.md."""

    def __init__(self, folder: Path) -> None:
        self.manifest = json.loads((folder / "mediant.json").read_text(encoding="utf-8"))
        raw = (folder / "mediant.safetensors").read_bytes()
        length = int.from_bytes(raw[:8], "little")
        self.header = json.loads(raw[8 : 8 + length])
        self.data = raw[8 + length :]

    def bytes_of(self, tensor: str, part: str) -> bytes:
        begin, end = self.header[f"{tensor}.{part}"]["data_offsets"]
        return self.data[begin:end]

    def entry(self, tensor: str) -> dict[str, Any]:
        """The entry of a tensor, or of one of the matrices of a factored one, as if it were a tensor by itself."""
        entries = self.manifest["tensors"]
        if tensor in entries:
            return entries[tensor]
        owner, factor = tensor.rsplit(".", 1)
        entry = entries[owner]
        parts = {k.removeprefix(f"{factor}."): p for k, p in entry["parts"].items() if k.startswith(f"{factor}.")}
        return {"plan": entry["plan"][factor], "grid": entry.get("grid", {}).get(factor), "parts": parts}

    def factor(self, tensor: str, columns: int) -> list[list[float]]:
        if self.entry(tensor)["plan"]["method"] == "quantize":
            return self.quantized_matrix(tensor, columns)
        flat = self.floats(tensor, "data")
        return [flat[i : i + columns] for i in range(0, len(flat), columns)]

    def product(self, tensor: str, rows: int, columns: int) -> list[list[float]]:
        plan = self.entry(tensor)["plan"]
        left, right = self.factor(f"{tensor}.left", plan["rank"]), self.factor(f"{tensor}.right", columns)
        base = self.factor(f"{tensor}.base", columns) if "base" in plan else [[0.0] * columns] * rows

        def weight(i: int, j: int) -> float:
            total = base[i][j]
            for k in range(plan["rank"]):
                total += left[i][k] * right[k][j]
            return float32(total)

        return [[weight(i, j) for j in range(columns)] for i in range(rows)]

    def floats(self, tensor: str, part: str) -> list[float]:
        raw = self.bytes_of(tensor, part)
        dtype = self.entry(tensor)["parts"][part]["dtype"]
        if dtype == "bfloat16":
            return [struct.unpack("<f", b"\0\0" + raw[i : i + 2])[0] for i in range(0, len(raw), 2)]
        return [x for (x,) in struct.iter_unpack({"float16": "<e", "float32": "<f"}[dtype], raw)]

    @staticmethod
    def unpacked(raw: bytes, count: int, bits: int) -> list[int]:
        plane = -(-count // 8)
        return [
            sum((raw[p * plane + i // 8] >> (i % 8) & 1) << (bits - 1 - p) for p in range(bits)) for i in range(count)
        ]

    def runs(self, tensor: str, part: str, width: int) -> list[list[int]]:
        """Rows of packed numbers, run by run."""
        raw, rows = self.bytes_of(tensor, part), []
        for count, bits in self.entry(tensor)["plan"]["runs"]:
            numbers = self.unpacked(raw, count * width, bits)
            rows += [numbers[r * width : (r + 1) * width] for r in range(count)]
            raw = raw[bits * -(-count * width // 8) :]
        assert not raw
        return rows

    def tiles(self, tensor: str, columns: int) -> list[list[int]]:
        """Codes of tiled runs: each number is looked up by the page's rule for where it lies."""
        raw, rows, begin = self.bytes_of(tensor, "tiles"), [], 0
        plan = self.manifest["tensors"][tensor]["plan"]
        blocks = -(-columns // 32)
        for count, bits in plan["runs"]:
            regions = []
            for width in WIDTHS[plan["storage"]][bits]:
                regions.append((width, begin))
                begin += -(-count // 8) * blocks * 32 * width
            for r in range(count):
                codes = []
                for c in range(columns):
                    code, quad = 0, c % 32 // 4
                    for width, start in regions:
                        block = start + (r // 8 * blocks + c // 32) * 32 * width
                        vector, bit = divmod(ONE_BIT[quad] if width == 1 else quad * width, 8)
                        byte = raw[block + 32 * vector + 4 * (r % 8) + c % 4]
                        code = code << width | (byte >> bit) % (1 << width)
                    codes.append(code)
                rows.append(codes)
        assert begin == len(raw)
        return rows

    def tiled_scale_codes(self, tensor: str, groups: int, bits: int) -> list[int]:
        raw, codes, panel = self.bytes_of(tensor, "scale_codes"), [], 0
        for count, _ in self.manifest["tensors"][tensor]["plan"]["runs"]:
            for r in range(count):
                for g in range(groups):
                    begin = ((panel + r // 8) * groups + g) * bits
                    word = int.from_bytes(raw[begin : begin + bits], "little")
                    codes.append((word >> r % 8 * bits) % (1 << bits))
            panel += -(-count // 8)
        assert len(raw) == panel * groups * bits + 1
        return codes

    def scales(self, tensor: str, rows: int, groups: int) -> list[list[float]]:
        plan = self.entry(tensor)["plan"]
        bits, steps = plan["scale_bits"], plan.get("scale_steps", 8)
        below = bits - plan.get("scale_signed", True)
        if bits == 16:
            flat = self.floats(tensor, "scales")
            return [flat[r * groups : (r + 1) * groups] for r in range(rows)]
        if "storage" in plan:
            codes = self.tiled_scale_codes(tensor, groups, bits)
        else:
            codes = self.unpacked(self.bytes_of(tensor, "scale_codes"), rows * groups, bits)
        row_scales = self.floats(tensor, "row_scales")

        def factor(code: int) -> float:
            k, sign = code % (1 << below), code >> below
            power = 0.0 if k == (1 << below) - 1 else 2.0 ** -(k // steps) * POWERS[k % steps * (8 // steps)]
            return (-1) ** sign * power

        return [[float32(row_scales[r] * factor(codes[r * groups + g])) for g in range(groups)] for r in range(rows)]

    def level(self, tensor: str, codes: list[int], column: int, bits: int) -> float:
        """Step 2 of the page for one column of a row."""
        grid, code = self.entry(tensor)["grid"], codes[column]
        if bits == 2 and grid["kind"] == "table" and len(book := self.floats(tensor, "levels.2")) == 32:
            if column % 8 >= 4:
                return book[16 + codes[column - 4] + 4 * code]
            return book[code + 4 * codes[column + 4]] if column + 4 < len(codes) else book[code]
        if grid["kind"] == "table":
            return self.floats(tensor, f"levels.{bits}")[code]
        return code + (grid["first"][str(bits)] if grid["kind"] == "affine" else 0)

    @staticmethod
    def curves(raw: bytes) -> list[list[tuple[int, int, int]]]:
        """For each curve its levels, with their frequencies and where those start."""
        marked = [*range(8), *(m << octave for octave in range(12) for m in (8, 10, 12, 14)), 32768]
        found = []
        while raw:
            count, bytes_of, raw = raw[0], raw[1 : raw[0] + 1], raw[raw[0] + 1 :]
            marks = [sum(bytes_of[: i + 1]) % 256 for i in range(count)]
            at = {m: (8 + b % 8) << b // 8 for m, b in zip(marked, marks, strict=False)}
            weights = []
            for m in range(min(max(at, default=-1), 32767) + 1):
                p, q = max(x for x in at if x <= m), min((x for x in at if x > m), default=m + 1)
                weights.append((at[p] * (q - m) + at.get(q, 0) * (m - p)) // (q - p))
            whole = 2 * sum(weights) - weights[0] if weights else 1
            shares = [1 + w * (2**24 - 2 * len(weights)) // whole for w in weights]
            shares = [2**24 - 2 * sum(shares[1:]), *shares[1:]][: count and len(weights)]
            curve, start = [], 0
            for k in range(1 - len(shares), len(shares)):
                curve.append((k, shares[abs(k)], start))
                start += shares[abs(k)]
            assert start == 1 << 24 or not count
            found.append(curve)
        return found

    def coded_matrix(self, tensor: str, columns: int) -> list[list[float]]:
        lzma2 = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**20, "lc": 0, "lp": 0, "pb": 0}]
        book = lzma.decompress(self.bytes_of(tensor, "codebook"), lzma.FORMAT_RAW, filters=lzma2)
        low, pieces = self.bytes_of(tensor, "row_scales"), []
        rows = len(low)
        for size in (rows, columns, rows, columns):
            pieces.append(book[:size])
            book = book[size:]
        high, scales, of_rows, of_columns = pieces
        row_scales = [struct.unpack("<f", bytes([0, 0, b, a]))[0] for a, b in zip(high, low, strict=True)]
        tables = self.curves(book)
        words = [word for (word,) in struct.iter_unpack("<I", self.bytes_of(tensor, "codes"))]
        numbers, state = {}, 0
        for index in range(63):
            for r, c in itertools.product(range(rows), range(columns)):
                if of_rows[r] + of_columns[c] == index:
                    table = tables[index]
                    if [k for k, _, _ in table] == [0]:
                        numbers[r, c] = 0
                        continue
                    while state < 1 << 32 and words:
                        state = (state << 32) + words.pop()
                    low = state % (1 << 24)
                    ((k, frequency, start),) = [t for t in table if t[2] <= low < t[2] + t[1]]
                    numbers[r, c] = k
                    state = frequency * (state >> 24) + low - start
        assert state == 0
        assert not words
        powers = [2.0 ** -(c // 8) * POWERS[c % 8] for c in scales]
        return [
            [float32(float32(row_scales[r] * powers[c]) * numbers[r, c]) for c in range(columns)] for r in range(rows)
        ]

    def weights(self, tensor: str) -> list[float]:
        """The weights of the tensor in its own order."""
        entry = self.manifest["tensors"][tensor]
        if entry["plan"]["method"] == "cast":
            return self.floats(tensor, "data")
        shape, layout = entry["shape"], entry["layout"]
        columns = shape[-2] if layout in ("in_out", "experts_in_out") else shape[-1]
        rows, method = math.prod(shape) // columns, entry["plan"]["method"]
        if method in ("factors", "compand", "sparse"):
            of_both = {"factors": self.product, "compand": self.companded_matrix, "sparse": self.sparse_matrix}
            matrix = of_both[method](tensor, rows, columns)
        else:
            matrix = (self.coded_matrix if method == "entropy_coded" else self.quantized_matrix)(tensor, columns)
        if layout in ("out_in", "experts_out_in"):
            return [w for row in matrix for w in row]
        outputs = shape[-1]
        experts = [matrix[e : e + outputs] for e in range(0, len(matrix), outputs)]
        return [rows[o][i] for rows in experts for i in range(columns) for o in range(outputs)]

    def quantized_matrix(self, tensor: str, columns: int) -> list[list[float]]:
        entry = self.entry(tensor)
        group = entry["plan"]["group"]
        groups = -(-columns // group)
        codes = self.tiles(tensor, columns) if "storage" in entry["plan"] else self.runs(tensor, "codes", columns)
        zeros = self.runs(tensor, "zeros", groups) if entry["grid"]["kind"] == "zero_point" else None
        scales = self.scales(tensor, len(codes), groups)
        bits = [bit_width for rows, bit_width in entry["plan"]["runs"] for _ in range(rows)]

        def weight(r: int, c: int) -> float:
            zero = zeros[r][c // group] if zeros else 0
            return float32(scales[r][c // group] * float32(self.level(tensor, codes[r], c, bits[r]) - zero))

        matrix = [[weight(r, c) for c in range(columns)] for r in range(len(codes))]
        if "outliers" in entry["plan"]:
            marks = self.unpacked(self.bytes_of(tensor, "outlier_mask"), columns, 1)
            values = iter(self.floats(tensor, "outliers"))
            matrix = [[next(values) if mark else w for mark, w in zip(marks, row, strict=True)] for row in matrix]
            assert next(values, None) is None
        basis = entry["plan"].get("basis", {})
        if basis.get("name") == "rotation":
            matrix = [rotated_back(row, basis["seed"]) for row in matrix]
        if basis.get("name") == "columns":
            factors = self.floats(tensor, "column_scales")
            matrix = [[float32(w * factor) for w, factor in zip(row, factors, strict=True)] for row in matrix]
        return matrix

    def companded_matrix(self, tensor: str, rows: int, columns: int) -> list[list[float]]:
        cluster = self.entry(tensor)["plan"]["cluster"]
        count = min(256, max(1, (2 * rows + cluster) // (2 * cluster)))
        bit_widths = self.unpacked(self.bytes_of(tensor, "bit_widths"), count * columns, 4)
        clusters = self.unpacked(self.bytes_of(tensor, "clusters"), rows, max(1, (count - 1).bit_length()))
        scales, centres, raw = (
            self.floats(tensor, "scales"),
            self.floats(tensor, "centres"),
            self.bytes_of(tensor, "codes"),
        )
        members = [[r for r in range(rows) if clusters[r] == k] for k in range(count)]
        matrix = [[0.0] * columns for _ in range(rows)]
        for bits in range(9):
            groups = [(k, c) for k in range(count) for c in range(columns) if bit_widths[k * columns + c] == bits]
            places = [(k, r, c) for k, c in groups for r in members[k]]
            codes = self.unpacked(raw, len(places), bits)
            raw = raw[bits * -(-len(places) // 8) :]
            for (k, r, c), code in zip(places, codes, strict=True):
                scaled = float32(scales[k * columns + c] * companding(code, bits))
                matrix[r][c] = float32(centres[k * columns + c] + scaled)
        assert not raw
        return matrix

    def sparse_matrix(self, tensor: str, rows: int, columns: int) -> list[list[float]]:
        entry = self.entry(tensor)
        stored = self.positions(tensor, rows, columns)
        if "grid" in entry:
            kept = iter([w for row in self.quantized_matrix(tensor, entry["positions"]["row"]) for w in row])
        else:
            kept = iter(self.floats(tensor, "data"))
        matrix = [[next(kept) if (r, c) in stored else 0.0 for c in range(columns)] for r in range(rows)]
        assert next(kept, None) is None
        return matrix

    def positions(self, tensor: str, rows: int, columns: int) -> set[tuple[int, int]]:
        """Rows and columns of the stored weights of a sparse tensor."""
        how, raw = self.entry(tensor)["positions"], self.bytes_of(tensor, "positions")
        size, stored = rows * columns, how["stored"]
        if how["kind"] == "mask":
            found = [i for i, bit in enumerate(self.unpacked(raw, size, 1)) if bit]
        elif how["kind"] == "ordered":
            low = min(8, len(f"{size // stored:b}") - 1)
            lower = self.unpacked(raw, stored, low) if low else [0] * stored
            upper = self.unpacked(raw[low * -(-stored // 8) :], stored + size // 2**low + 1, 1)
            ones = [i for i, bit in enumerate(upper) if bit]
            found = [(one - k) * 2**low + lower[k] for k, one in enumerate(ones)]
        elif how["kind"] == "combinations":
            of = how["of"]
            sets = [number for number in range(2**of) if f"{number:b}".count("1") == how["keep"]]
            ranks = self.unpacked(raw, size // of, len(f"{len(sets) - 1:b}"))
            found = [g * of + i for g, rank in enumerate(ranks) for i in range(of) if sets[rank] >> i & 1]
        else:
            height, width = how["height"], how["width"]
            bits = self.unpacked(raw, (rows // height) * (columns // width), 1)
            found = [
                r * columns + c
                for r, c in itertools.product(range(rows), range(columns))
                if bits[r // height * (columns // width) + c // width]
            ]
        assert len(found) == stored
        places = {divmod(place, columns) for place in found}
        assert all(sum(r == i for r, _ in places) == how.get("row", stored) for i in range(rows) if "row" in how)
        return places
