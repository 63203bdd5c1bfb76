from mediant.checkpoint.manifest import Manifest
from mediant.reports.summary import Summary, summarize


def test_every_byte_is_counted_once(manifest: Manifest, file_sizes: dict[str, int]) -> None:
    found = summarize(manifest, file_sizes)
    assert found.bytes == sum(file_sizes.values()) == sum(found.bytes_by_kind().values())
    assert found.bits_per_weight == 8 * found.bytes / found.model.weights
    assert found.bytes_by_kind()["other files"] == 500 + 4000 + 1000
    assert found.beside == {"config.json": 500, "mediant.json": 4000}
    assert all(row.bits == 8 * row.bytes / row.weights for row in found.tensors)


def test_the_original_is_counted_in_its_own_types(manifest: Manifest, file_sizes: dict[str, int]) -> None:
    found = summarize(manifest, file_sizes)
    matrices = sum(e.info.size for e in manifest.tensors.values() if e.info.dtype == "bfloat16")
    assert found.original_bytes == 2 * matrices + 4 * (found.model.weights - matrices)
    assert found.original_dtypes == ("bfloat16", "float32")


def test_kinds_are_paths_within_a_layer_or_roles(manifest: Manifest, file_sizes: dict[str, int]) -> None:
    kinds = [row.kind for row in summarize(manifest, file_sizes).tensors]
    assert kinds[:4] == ["embedding", "self_attn.c_proj", "mlp.c_proj", kinds[3]]
    assert kinds[4] == "norms"
    assert kinds[5] == "self_attn.c_proj"


def test_methods_and_bit_widths_are_said_in_words(manifest: Manifest, file_sizes: dict[str, int]) -> None:
    rows = summarize(manifest, file_sizes).tensors
    assert (rows[0].method, rows[0].bit_width) == ("uniform × exact × nearest", "3–5 (3.67)")
    assert (rows[1].method, rows[1].bit_width) == ("uniform × exact × nearest", "2")
    assert (rows[4].method, rows[4].bit_width) == ("float16", "–")


def test_largest_errors_come_first_and_only_known_ones(manifest: Manifest, file_sizes: dict[str, int]) -> None:
    found: Summary = summarize(manifest, file_sizes)
    errors = [r.certificate.relative_error for r in found.largest_errors(3) if r.certificate]
    assert errors == [0.1, 0.05, 0.02]
    assert len(found.largest_errors(100)) == 7
