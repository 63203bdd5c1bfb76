// Native twin of mediant.kernels.babai, which states the contract. Rows are independent; several are taken
// together, in strips of columns (strips.h).
#include "nearest_plane.h"
#include "registry.h"

namespace {


struct Problem {
    const float *w, *feedback, *conditional, *factors;
    mediant::Grid grid;
    int64_t columns, group, groups, factor_count;
    uint8_t *codes, *scale_codes;
    float *row_scales;
};

MEDIANT_CLONES void round_block(const Problem &p, float *scratch, int64_t first, int64_t count) {
    const int64_t n = p.columns;
    float scales[mediant::kRows], changes[mediant::kRows * mediant::kStrip];
    std::copy_n(p.w + first * n, count * n, scratch);
    for (int64_t r = 0; r < count; ++r)
        p.row_scales[first + r] = mediant::row_scale(p.grid, scratch + r * n, p.conditional, n, p.group);
    for (int64_t g = 0; g < p.groups; ++g) {
        const int64_t begin = g * p.group, end = std::min(begin + p.group, n);
        for (int64_t r = 0; r < count; ++r) {
            const float row = p.row_scales[first + r];
            const int k = mediant::best_factor(p.grid, scratch + r * n + begin, p.conditional + begin, end - begin, row,
                                               p.factors, p.factor_count);
            p.scale_codes[(first + r) * p.groups + g] = static_cast<uint8_t>(k);
            scales[r] = row * p.factors[k];
        }
        for (int64_t strip = begin; strip < end; strip += mediant::kStrip) {
            const int64_t stop = std::min(end, strip + mediant::kStrip);
            for (int64_t j = strip; j < stop; ++j)
                for (int64_t r = 0; r < count; ++r) {
                    const float w = scratch[r * n + j];
                    const int code = mediant::code_of(p.grid, w * mediant::inverse(scales[r]));
                    const float change = scales[r] * p.grid.levels[code] - w;
                    p.codes[(first + r) * n + j] = static_cast<uint8_t>(code);
                    changes[r * mediant::kStrip + j - strip] = change;
                    mediant::add(scratch + r * n + j + 1, p.feedback + j * n + j + 1, change, stop - j - 1);
                }
            mediant::add_strip(scratch, p.feedback + strip * n, changes, n, count, stop - strip, stop, n);
        }
    }
}

using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Codes = nb::ndarray<uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void babai(Matrix w, Matrix feedback, Vector conditional, Vector levels, Vector middles, bool affine, int64_t group,
           Vector factors, Codes codes, Out row_scales, Codes scale_codes, int threads) {
    const int64_t rows = static_cast<int64_t>(w.shape(0)), columns = static_cast<int64_t>(w.shape(1));
    const mediant::Grid grid{levels.data(), middles.data(), static_cast<int64_t>(levels.size()), affine};
    const Problem p{w.data(), feedback.data(), conditional.data(), factors.data(), grid, columns, group,
                    (columns + group - 1) / group, static_cast<int64_t>(factors.size()), codes.data(),
                    scale_codes.data(), row_scales.data()};
    nb::gil_scoped_release release;
    const auto scratch = [&] { return std::vector<float>(mediant::kRows * columns); };
    mediant::parallel_blocks(rows, mediant::kRows, threads, scratch, [&](auto &room, int64_t first, int64_t count) {
        round_block(p, room.data(), first, count);
    });
}

}  // namespace

MEDIANT_KERNEL(babai) {
    m.def("babai", &babai, nb::arg("w"), nb::arg("feedback"), nb::arg("conditional"), nb::arg("levels"),
          nb::arg("middles"), nb::arg("affine"), nb::arg("group"), nb::arg("factors"), nb::arg("codes").noconvert(),
          nb::arg("row_scales").noconvert(), nb::arg("scale_codes").noconvert(), nb::arg("threads"));
}
