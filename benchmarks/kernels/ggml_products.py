"""Matrix products by the ggml that llama-cpp-python brings along, called through ctypes in this process."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_bool, c_char_p, c_int, c_int64, c_size_t, c_void_p
from importlib.util import find_spec
from pathlib import Path

import numpy as np

TYPES = {"Q4_0": 2, "Q2_K": 10, "Q3_K": 11, "Q4_K": 12}
F32 = 0
# Rows that are really quantized; the rest repeats them.
DISTINCT_ROWS = 64
# Bytes before the field `extra` of a ggml_tensor.
EXTRA = 320

SIGNATURES = {
    "ggml_new_tensor_2d": (c_void_p, [c_void_p, c_int, c_int64, c_int64]),
    "ggml_nbytes": (c_size_t, [c_void_p]),
    "ggml_mul_mat": (c_void_p, [c_void_p, c_void_p, c_void_p]),
    "ggml_new_graph": (c_void_p, [c_void_p]),
    "ggml_build_forward_expand": (None, [c_void_p, c_void_p]),
    "ggml_quantize_chunk": (c_size_t, [c_int, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p]),
    "ggml_backend_cpu_init": (c_void_p, []),
    "ggml_backend_cpu_reg": (c_void_p, []),
    "ggml_backend_cpu_set_n_threads": (None, [c_void_p, c_int]),
    "ggml_backend_cpu_buffer_type": (c_void_p, []),
    "ggml_backend_reg_dev_get": (c_void_p, [c_void_p, c_size_t]),
    "ggml_backend_reg_get_proc_address": (c_void_p, [c_void_p, c_char_p]),
    "ggml_backend_buft_name": (c_char_p, [c_void_p]),
    "ggml_backend_alloc_ctx_tensors_from_buft": (c_void_p, [c_void_p, c_void_p]),
    "ggml_backend_tensor_set": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "ggml_backend_tensor_get": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "ggml_backend_graph_compute": (c_int, [c_void_p, c_void_p]),
}


class _Settings(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("buffer", c_void_p), ("no_alloc", c_bool)]


class Ggml:
    """The libraries of an installed llama_cpp, or of a folder."""

    def __init__(self, folder: Path | None = None) -> None:
        if folder is None:
            spec = find_spec("llama_cpp")
            if spec is None or spec.origin is None:
                raise SystemExit("llama-cpp-python is not installed, so there is nothing to compare with.")
            folder = Path(spec.origin).parent / "lib"
        self.libraries = [
            ctypes.CDLL(str(folder / f"lib{name}.so"), mode=ctypes.RTLD_GLOBAL) for name in ("ggml-base", "ggml-cpu")
        ]
        for name, (result, arguments) in SIGNATURES.items():
            library = next(one for one in self.libraries if hasattr(one, name))
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
            setattr(self, name.removeprefix("ggml_"), function)
        init = self.libraries[0].ggml_init
        init.restype, init.argtypes = c_void_p, [_Settings]
        self.context = lambda: init(_Settings(16 << 20, None, True))
        self.backend = self.backend_cpu_init()  # type: ignore[attr-defined]

    def buffer_types(self) -> dict[str, c_void_p]:
        """The plain buffer type and those that repack weights, by name."""
        kinds = [self.backend_cpu_buffer_type()]  # type: ignore[attr-defined]
        registry = self.backend_cpu_reg()  # type: ignore[attr-defined]
        address = self.backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")  # type: ignore[attr-defined]
        if address:
            device = self.backend_reg_dev_get(registry, 0)  # type: ignore[attr-defined]
            extra = ctypes.CFUNCTYPE(POINTER(c_void_p), c_void_p)(address)(device)
            index = 0
            while extra and extra[index]:
                kinds.append(extra[index])
                index += 1
        return {self.backend_buft_name(kind).decode(): kind for kind in kinds}  # type: ignore[attr-defined]


class GgmlProducts:
    """`copies` matrices [rows, columns] of one type, each times the same vectors, as one graph."""

    def __init__(self, ggml: Ggml, kind: str, buffer: c_void_p, shape: tuple[int, int], copies: int, x: np.ndarray):
        rows, columns = shape
        self.ggml, self.bytes = ggml, 0
        weights = ggml.context()
        tensors = [ggml.new_tensor_2d(weights, TYPES[kind], columns, rows) for _ in range(copies)]  # type: ignore[attr-defined]
        if not ggml.backend_alloc_ctx_tensors_from_buft(weights, buffer):  # type: ignore[attr-defined]
            raise MemoryError(f"ggml has no room for {kind}")
        self.bytes = ggml.nbytes(tensors[0])  # type: ignore[attr-defined]
        # Where a buffer does not repack weights of this type, their field `extra` is empty, and setting them fails.
        if buffer != ggml.backend_cpu_buffer_type() and not c_void_p.from_address(tensors[0] + EXTRA).value:  # type: ignore[attr-defined]
            raise MemoryError(f"ggml does not repack {kind}")
        data = self._data(kind, rows, columns)
        for tensor in tensors:
            ggml.backend_tensor_set(tensor, data.ctypes.data, 0, data.size)  # type: ignore[attr-defined]
        self.nodes = ggml.context()
        vector = ggml.new_tensor_2d(self.nodes, F32, columns, len(x))  # type: ignore[attr-defined]
        self.graph = ggml.new_graph(self.nodes)  # type: ignore[attr-defined]
        self.results = [ggml.mul_mat(self.nodes, tensor, vector) for tensor in tensors]  # type: ignore[attr-defined]
        for result in self.results:
            ggml.build_forward_expand(self.graph, result)  # type: ignore[attr-defined]
        plain = ggml.backend_cpu_buffer_type()  # type: ignore[attr-defined]
        ggml.backend_alloc_ctx_tensors_from_buft(self.nodes, plain)  # type: ignore[attr-defined]
        ggml.backend_tensor_set(vector, x.ctypes.data, 0, x.nbytes)  # type: ignore[attr-defined]
        self.copies, self.count, self.rows = copies, len(x), rows

    def _data(self, kind: str, rows: int, columns: int) -> np.ndarray:
        source = np.random.default_rng(0).standard_normal((DISTINCT_ROWS, columns)).astype(np.float32)
        distinct = np.zeros(self.bytes // rows * DISTINCT_ROWS, np.uint8)
        self.ggml.quantize_chunk(  # type: ignore[attr-defined]
            TYPES[kind], source.ctypes.data, distinct.ctypes.data, 0, DISTINCT_ROWS, columns, None
        )
        self.source = source
        return np.tile(distinct, -(-rows // DISTINCT_ROWS))[: self.bytes]

    def run(self, threads: int) -> None:
        """Computes all products."""
        self.ggml.backend_cpu_set_n_threads(self.ggml.backend, threads)  # type: ignore[attr-defined]
        if self.ggml.backend_graph_compute(self.ggml.backend, self.graph):  # type: ignore[attr-defined]
            raise RuntimeError("ggml could not compute the graph")

    def result(self) -> np.ndarray:
        """The first product, [count, rows], to see that it is one."""
        y = np.empty((self.count, self.rows), np.float32)
        self.ggml.backend_tensor_get(self.results[0], y.ctypes.data, 0, y.nbytes)  # type: ignore[attr-defined]
        return y
