// Native twin of mediant.kernels.pair_babai, which states the contract. Rows are independent; several are taken
// together, in strips of columns (strips.h).
#include "pair_plane.h"
#include "registry.h"

namespace {

// A code of a scale has at most 8 bits.
constexpr int kMostFactors = 256;


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
        float peak = 0, scales[mediant::kTrials], errors[mediant::kTrials];
        for (int64_t j = begin; j < end; ++j) peak = std::max(peak, std::fabs(w[j]));
        for (int t = 0; t < mediant::kTrials; ++t) scales[t] = peak / top * (0.45f + 0.06f * static_cast<float>(t));
        mediant::pair_group_errors(p.book, w, p.conditional, begin, end, p.paired, scales, mediant::kTrials, errors);
        best = std::max(best, scales[mediant::least(errors, mediant::kTrials)]);
    }
    return mediant::to_bfloat16(best * 1.15f * 1.00390625f);
}

// One row, and the strip that its columns are in: what they changed by.
struct Row {
    float *w, *changes;
    uint8_t *codes;
    int64_t begin, end;

    MEDIANT_INLINE void settle(const Problem &p, int64_t j, int code, float change) {
        codes[j] = static_cast<uint8_t>(code);
        changes[j - begin] = change;
        mediant::add(w + j + 1, p.feedback + j * p.columns + j + 1, change, end - j - 1);
    }
};

MEDIANT_INLINE void round_pair(const Problem &p, const mediant::Points &points, Row row, int64_t j) {
    const float *w = row.w, along = p.feedback[j * p.columns + j + 1], d1 = p.conditional[j], d2 = p.conditional[j + 1];
    float costs[mediant::kPairs];
    for (int k = 0; k < mediant::kPairs; ++k) {
        const float a = w[j] - points.first[k], b = (w[j + 1] - a * along) - points.second[k];
        costs[k] = d1 * (a * a) + d2 * (b * b);
    }
    const int best = mediant::least(costs, mediant::kPairs);
    row.settle(p, j, best, points.first[best] - w[j]);
    row.settle(p, j + 1, mediant::kPairs + best, points.second[best] - w[j + 1]);
}

MEDIANT_INLINE void round_single(const Problem &p, const mediant::Points &points, Row row, int64_t j) {
    const float w = row.w[j];
    float costs[mediant::kSingles];
    for (int k = 0; k < mediant::kSingles; ++k) costs[k] = (w - points.first[k]) * (w - points.first[k]);
    const int best = mediant::least(costs, mediant::kSingles);
    row.settle(p, j, best, points.first[best] - w);
}

MEDIANT_CLONES void round_block(const Problem &p, float *scratch, int64_t first, int64_t count) {
    const int64_t n = p.columns;
    std::copy_n(p.w + first * n, count * n, scratch);
    for (int64_t r = 0; r < count; ++r) p.row_scales[first + r] = row_scale(p, scratch + r * n);
    mediant::Points points[mediant::kRows];
    float changes[mediant::kRows * mediant::kStrip], scales[kMostFactors], errors[kMostFactors];
    for (int64_t g = 0; g < p.groups; ++g) {
        const int64_t begin = g * p.group, end = std::min(begin + p.group, n);
        for (int64_t r = 0; r < count; ++r) {
            for (int64_t k = 0; k < p.factor_count; ++k) scales[k] = p.row_scales[first + r] * p.factors[k];
            mediant::pair_group_errors(p.book, scratch + r * n, p.conditional, begin, end, p.paired, scales,
                                       p.factor_count, errors);
            const int chosen = mediant::least(errors, static_cast<int>(p.factor_count));
            p.scale_codes[(first + r) * p.groups + g] = static_cast<uint8_t>(chosen);
            points[r] = mediant::scaled(p.book, scales[chosen]);
        }
        for (int64_t strip = begin; strip < end; strip += mediant::kStrip) {
            const int64_t stop = std::min(end, strip + mediant::kStrip);
            for (int64_t j = strip; j < stop; j += j < p.paired ? 2 : 1)
                for (int64_t r = 0; r < count; ++r) {
                    const Row row{scratch + r * n, changes + r * mediant::kStrip, p.codes + (first + r) * n, strip, stop};
                    if (j < p.paired) round_pair(p, points[r], row, j);
                    else round_single(p, points[r], row, j);
                }
            mediant::add_strip(scratch, p.feedback + strip * n, changes, n, count, stop - strip, stop, n);
        }
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
    if (p.factor_count > kMostFactors) throw std::invalid_argument("a scale has a code of more than 8 bits");
    nb::gil_scoped_release release;
    const auto scratch = [&] { return std::vector<float>(mediant::kRows * columns); };
    mediant::parallel_blocks(rows, mediant::kRows, threads, scratch, [&](auto &room, int64_t first, int64_t count) {
        round_block(p, room.data(), first, count);
    });
}

}  // namespace

MEDIANT_KERNEL(pair_babai) {
    m.def("pair_babai", &pair_babai, nb::arg("w"), nb::arg("feedback"), nb::arg("conditional"), nb::arg("book"),
          nb::arg("group"), nb::arg("factors"), nb::arg("paired"), nb::arg("codes").noconvert(),
          nb::arg("row_scales").noconvert(), nb::arg("scale_codes").noconvert(), nb::arg("threads"));
}
