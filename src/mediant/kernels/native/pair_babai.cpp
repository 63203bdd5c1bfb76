// Native twin of mediant.kernels.pair_babai, which states the contract. Rows are independent; four are taken together so
// that each row of the feedback matrix is read once for all of them.
#include "pair_plane.h"
#include "registry.h"

namespace {

constexpr int kBlock = 4;

struct Problem {
    const float *w, *feedback, *conditional, *book, *factors;
    int64_t columns, group, groups, factor_count, paired;
    uint8_t *codes, *scale_codes;
    float *row_scales;
};

MEDIANT_INLINE float row_scale(const Problem &p, const float *w) {
    float top = 0, best = 0;
    for (int k = 0; k < 2 * mediant::kPairs; ++k) top = std::max(top, std::fabs(p.book[k]));
    for (int64_t begin = 0; begin < p.columns; begin += p.group) {
        const int64_t end = std::min(begin + p.group, p.columns);
        float peak = 0;
        for (int64_t j = begin; j < end; ++j) peak = std::max(peak, std::fabs(w[j]));
        const float unit = peak / top;
        float least = INFINITY, chosen = 0;
        for (int t = 0; t < mediant::kTrials; ++t) {
            const float scale = unit * (0.45f + 0.06f * static_cast<float>(t));
            const float error = mediant::pair_group_error(p.book, w, p.conditional, begin, end, p.paired, scale);
            if (error < least) least = error, chosen = scale;
        }
        best = std::max(best, chosen);
    }
    return mediant::to_bfloat16(best * 1.15f * 1.00390625f);
}

MEDIANT_INLINE void round_pair(const Problem &p, const mediant::Points &points, float *w, uint8_t *codes, int64_t j) {
    const float *along = p.feedback + j * p.columns, d1 = p.conditional[j], d2 = p.conditional[j + 1];
    float errors[mediant::kPairs], costs[mediant::kPairs];
    for (int k = 0; k < mediant::kPairs; ++k) {
        const float a = w[j] - points.first[k], b = (w[j + 1] - a * along[j + 1]) - points.second[k];
        errors[k] = a;
        costs[k] = d1 * (a * a) + d2 * (b * b);
    }
    const int best = mediant::least(costs, mediant::kPairs);
    codes[j] = static_cast<uint8_t>(best), codes[j + 1] = static_cast<uint8_t>(mediant::kPairs + best);
    mediant::subtract(w + j + 1, along + j + 1, errors[best], p.columns - j - 1);
    mediant::subtract(w + j + 2, along + p.columns + j + 2, w[j + 1] - points.second[best], p.columns - j - 2);
}

MEDIANT_INLINE void round_single(const Problem &p, const mediant::Points &points, float *w, uint8_t *codes, int64_t j) {
    float costs[mediant::kSingles];
    for (int k = 0; k < mediant::kSingles; ++k) costs[k] = (w[j] - points.first[k]) * (w[j] - points.first[k]);
    const int best = mediant::least(costs, mediant::kSingles);
    codes[j] = static_cast<uint8_t>(best);
    mediant::subtract(w + j + 1, p.feedback + j * p.columns + j + 1, w[j] - points.first[best], p.columns - j - 1);
}

MEDIANT_CLONES void round_block(const Problem &p, float *scratch, int64_t first, int64_t count) {
    const int64_t n = p.columns;
    std::copy_n(p.w + first * n, count * n, scratch);
    for (int64_t r = 0; r < count; ++r) p.row_scales[first + r] = row_scale(p, scratch + r * n);
    mediant::Points points[kBlock];
    for (int64_t g = 0; g < p.groups; ++g) {
        const int64_t begin = g * p.group, end = std::min(begin + p.group, n);
        for (int64_t r = 0; r < count; ++r) {
            const float row = p.row_scales[first + r];
            float least = INFINITY;
            int64_t chosen = 0;
            for (int64_t k = 0; k < p.factor_count; ++k) {
                const float error = mediant::pair_group_error(p.book, scratch + r * n, p.conditional, begin, end,
                                                              p.paired, row * p.factors[k]);
                if (error < least) least = error, chosen = k;
            }
            p.scale_codes[(first + r) * p.groups + g] = static_cast<uint8_t>(chosen);
            points[r] = mediant::scaled(p.book, row * p.factors[chosen]);
        }
        const int64_t middle = std::max(begin, std::min(end, p.paired));
        for (int64_t j = begin; j < middle; j += 2)
            for (int64_t r = 0; r < count; ++r)
                round_pair(p, points[r], scratch + r * n, p.codes + (first + r) * n, j);
        for (int64_t j = middle; j < end; ++j)
            for (int64_t r = 0; r < count; ++r)
                round_single(p, points[r], scratch + r * n, p.codes + (first + r) * n, j);
    }
}

using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Codes = nb::ndarray<uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void pair_babai(Matrix w, Matrix feedback, Vector conditional, Matrix book, int64_t group, Vector factors,
                int64_t paired, Codes codes, Out row_scales, Codes scale_codes, int threads) {
    const int64_t rows = static_cast<int64_t>(w.shape(0)), columns = static_cast<int64_t>(w.shape(1));
    const Problem p{w.data(), feedback.data(), conditional.data(), book.data(), factors.data(), columns, group,
                    (columns + group - 1) / group, static_cast<int64_t>(factors.size()), paired, codes.data(),
                    scale_codes.data(), row_scales.data()};
    nb::gil_scoped_release release;
    const auto scratch = [&] { return std::vector<float>(kBlock * columns); };
    mediant::parallel_blocks(rows, kBlock, threads, scratch, [&](auto &room, int64_t first, int64_t count) {
        round_block(p, room.data(), first, count);
    });
}

}  // namespace

MEDIANT_KERNEL(pair_babai) {
    m.def("pair_babai", &pair_babai, nb::arg("w"), nb::arg("feedback"), nb::arg("conditional"), nb::arg("book"),
          nb::arg("group"), nb::arg("factors"), nb::arg("paired"), nb::arg("codes").noconvert(),
          nb::arg("row_scales").noconvert(), nb::arg("scale_codes").noconvert(), nb::arg("threads"));
}
