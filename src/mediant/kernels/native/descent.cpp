// Native twin of mediant.kernels.descent, which states the contract. Rows are independent; several are taken
// together, in strips of columns (strips.h).
#include "nearest_plane.h"
#include "registry.h"

namespace {


struct Problem {
    const float *w, *metric, *scales;
    mediant::Grid grid;
    int64_t columns, group, groups, sweeps;
    uint8_t *codes;
};

MEDIANT_INLINE void sweep(const Problem &p, float *decoded, float *gradient, int64_t first, int64_t count) {
    const int64_t n = p.columns;
    mediant::Changes changes[mediant::kRows];
    for (int64_t begin = 0; begin < n; begin += mediant::kStrip) {
        const int64_t end = std::min(n, begin + mediant::kStrip);
        for (int64_t j = begin; j < end; ++j) {
            const float *along = p.metric + j * n, inverse_diagonal = 1.0f / along[j];
            for (int64_t r = 0; r < count; ++r) {
                const float scale = p.scales[(first + r) * p.groups + j / p.group];
                const float target = decoded[r * n + j] - gradient[r * n + j] * inverse_diagonal;
                const int code = mediant::code_of(p.grid, target * mediant::inverse(scale));
                const float value = scale * p.grid.levels[code], change = value - decoded[r * n + j];
                if (change == 0) continue;
                p.codes[(first + r) * n + j] = static_cast<uint8_t>(code);
                decoded[r * n + j] = value;
                changes[r].note(j, change);
                mediant::add(gradient + r * n + begin, along + begin, change, end - begin);
            }
        }
        mediant::add_changes(gradient, p.metric, changes, n, count, begin, end);
    }
}

MEDIANT_CLONES void descend(const Problem &p, float *decoded, float *gradient, int64_t first, int64_t count) {
    const int64_t n = p.columns;
    std::fill_n(gradient, count * n, 0.0f);
    for (int64_t r = 0; r < count; ++r)
        for (int64_t j = 0; j < n; ++j)
            decoded[r * n + j] =
                p.scales[(first + r) * p.groups + j / p.group] * p.grid.levels[p.codes[(first + r) * n + j]];
    mediant::add_differences(gradient, p.metric, decoded, p.w + first * n, n, count);
    for (int64_t s = 0; s < p.sweeps; ++s) sweep(p, decoded, gradient, first, count);
}

using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Codes = nb::ndarray<uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void descent(Matrix w, Matrix metric, Matrix scales, Vector levels, Vector middles, bool affine, int64_t group,
             int64_t sweeps, Codes codes, int threads) {
    const int64_t rows = static_cast<int64_t>(w.shape(0)), columns = static_cast<int64_t>(w.shape(1));
    const mediant::Grid grid{levels.data(), middles.data(), static_cast<int64_t>(levels.size()), affine};
    const Problem p{w.data(), metric.data(), scales.data(), grid, columns, group,
                    static_cast<int64_t>(scales.shape(1)), sweeps, codes.data()};
    nb::gil_scoped_release release;
    const auto scratch = [&] { return std::vector<float>(2 * mediant::kRows * columns); };
    mediant::parallel_blocks(rows, mediant::kRows, threads, scratch, [&](auto &room, int64_t first, int64_t count) {
        descend(p, room.data(), room.data() + mediant::kRows * columns, first, count);
    });
}

}  // namespace

MEDIANT_KERNEL(descent) {
    m.def("descent", &descent, nb::arg("w"), nb::arg("metric"), nb::arg("scales"), nb::arg("levels"),
          nb::arg("middles"), nb::arg("affine"), nb::arg("group"), nb::arg("sweeps"), nb::arg("codes").noconvert(),
          nb::arg("threads"));
}
