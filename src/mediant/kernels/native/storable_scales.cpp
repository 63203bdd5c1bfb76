// Native twin of mediant.kernels.storable_scales, which states the contract. Rows are independent.
#include "nearest_plane.h"
#include "registry.h"

namespace {

struct Problem {
    const float *w, *weights, *factors;
    mediant::Grid grid, search;
    bool mirrored;
    int64_t columns, group, groups, factor_count;
    uint8_t *codes, *scale_codes;
    float *row_scales;
};

MEDIANT_INLINE float best_scale(const Problem &p, const float *x, int64_t begin) {
    const int64_t size = std::min(p.group, p.columns - begin);
    return mediant::row_scale(p.search, x + begin, p.weights + begin, size, size, 1.0f);
}

// The larger of the best scales of two groups: that of the largest weight and that of the largest energy.
MEDIANT_INLINE float row_scale(const Problem &p, const float *x) {
    float most = -1, highest = -1;
    int64_t loudest = 0, tallest = 0;
    for (int64_t a = 0; a < p.columns; a += p.group) {
        const int64_t size = std::min(p.group, p.columns - a);
        const float energy = mediant::group_error(p.search, x + a, p.weights + a, size, 0.0f);
        float peak = 0;
        for (int64_t j = a; j < a + size; ++j) peak = std::max(peak, std::fabs(x[j]));
        if (energy > most) most = energy, loudest = a;
        if (peak > highest) highest = peak, tallest = a;
    }
    return std::max(best_scale(p, x, loudest), best_scale(p, x, tallest));
}

MEDIANT_CLONES void round_row(const Problem &p, float *x, int64_t r) {
    const int64_t n = p.columns;
    const float *w = p.w + r * n;
    uint8_t *codes = p.codes + r * n;
    for (int64_t j = 0; j < n; ++j) x[j] = p.mirrored ? std::fabs(w[j]) : w[j];
    const float row = row_scale(p, x);
    p.row_scales[r] = row;
    for (int64_t g = 0; g < p.groups; ++g) {
        const int64_t begin = g * p.group, end = std::min(begin + p.group, n);
        const int k = mediant::best_factor(p.search, x + begin, p.weights + begin, end - begin, row, p.factors,
                                           p.factor_count);
        p.scale_codes[r * p.groups + g] = static_cast<uint8_t>(k);
        const float inverse = mediant::inverse(row * p.factors[k]);
        for (int64_t j = begin; j < end; ++j) codes[j] = static_cast<uint8_t>(mediant::code_of(p.grid, w[j] * inverse));
    }
}

using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Codes = nb::ndarray<uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

mediant::Grid grid_of(const Vector &levels, const Vector &middles, bool affine) {
    return {levels.data(), middles.data(), static_cast<int64_t>(levels.size()), affine};
}

void storable_scales(Matrix w, Vector weights, Vector levels, Vector middles, bool affine, Vector search_levels,
                     Vector search_middles, bool search_affine, bool mirrored, int64_t group, Vector factors,
                     Codes codes, Out row_scales, Codes scale_codes, int threads) {
    const int64_t rows = static_cast<int64_t>(w.shape(0)), columns = static_cast<int64_t>(w.shape(1));
    const Problem p{w.data(), weights.data(), factors.data(), grid_of(levels, middles, affine),
                    grid_of(search_levels, search_middles, search_affine), mirrored, columns, group,
                    (columns + group - 1) / group, static_cast<int64_t>(factors.size()), codes.data(),
                    scale_codes.data(), row_scales.data()};
    nb::gil_scoped_release release;
    mediant::parallel_for(rows, threads, [&](int64_t begin, int64_t end) {
        std::vector<float> room(columns);
        for (int64_t r = begin; r < end; ++r) round_row(p, room.data(), r);
    });
}

}  // namespace

MEDIANT_KERNEL(storable_scales) {
    m.def("storable_scales", &storable_scales, nb::arg("w"), nb::arg("weights"), nb::arg("levels"),
          nb::arg("middles"), nb::arg("affine"), nb::arg("search_levels"), nb::arg("search_middles"),
          nb::arg("search_affine"), nb::arg("mirrored"), nb::arg("group"), nb::arg("factors"),
          nb::arg("codes").noconvert(), nb::arg("row_scales").noconvert(), nb::arg("scale_codes").noconvert(),
          nb::arg("threads"));
}
