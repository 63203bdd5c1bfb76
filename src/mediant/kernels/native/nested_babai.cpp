// Native twin of mediant.kernels.nested_babai, which states the contract. Rows are independent; several are taken
// together, in strips of columns (strips.h).
#include "nearest_plane.h"
#include "registry.h"

namespace {

using mediant::kLanes;
constexpr int kMostReadings = 8;

struct Problem {
    const float *w, *feedback, *conditional, *metric, *levels, *weights, *factors;
    int64_t columns, group, groups, readings, count, factor_count, sweeps;
    uint8_t *codes, *scale_codes;
    float *row_scales;
};

// Each row of w has a copy for every reading: [readings, columns].
MEDIANT_INLINE float cost_of(const Problem &p, const float *x, float scale, int64_t code) {
    float cost = 0;
    for (int64_t r = 0; r < p.readings; ++r) {
        const float error = x[r] - scale * p.levels[r * p.count + code];
        cost += p.weights[r] * (error * error);
    }
    return cost;
}

MEDIANT_INLINE int code_of(const Problem &p, const float *x, float scale) {
    float least = INFINITY;
    int chosen = 0;
    for (int64_t code = 0; code < p.count; ++code) {
        const float cost = cost_of(p, x, scale, code);
        if (cost < least) least = cost, chosen = static_cast<int>(code);
    }
    return chosen;
}

MEDIANT_INLINE float group_error(const Problem &p, const float *w, const float *d, int64_t size, float scale) {
    float lanes[kLanes] = {0};
    for (int64_t i = 0; i < size; i += kLanes) {
        const int64_t count = size - i < kLanes ? size - i : kLanes;
        float x[kMostReadings][kLanes] = {{0}}, h[kLanes] = {0}, least[kLanes];
        for (int64_t r = 0; r < p.readings; ++r)
            for (int64_t l = 0; l < count; ++l) x[r][l] = w[r * p.columns + i + l];
        for (int64_t l = 0; l < count; ++l) h[l] = d[i + l];
        std::fill_n(least, kLanes, INFINITY);
        for (int64_t code = 0; code < p.count; ++code) {
            float cost[kLanes] = {0};
            for (int64_t r = 0; r < p.readings; ++r) {
                const float value = scale * p.levels[r * p.count + code], weight = p.weights[r];
                for (int l = 0; l < kLanes; ++l) {
                    const float error = x[r][l] - value;
                    cost[l] += weight * (error * error);
                }
            }
            for (int l = 0; l < kLanes; ++l) least[l] = cost[l] < least[l] ? cost[l] : least[l];
        }
        for (int l = 0; l < kLanes; ++l) lanes[l] += h[l] * least[l];
    }
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

MEDIANT_INLINE float row_scale(const Problem &p, const float *w) {
    float top = 0, best = 0;
    for (int64_t k = 0; k < p.count; ++k) top = std::max(top, std::fabs(p.levels[k]));
    for (int64_t a = 0; a < p.columns; a += p.group) {
        const int64_t size = std::min(p.group, p.columns - a);
        float peak = 0;
        for (int64_t j = a; j < a + size; ++j) peak = std::max(peak, std::fabs(w[j]));
        const float unit = peak / top;
        float least = INFINITY, chosen = 0;
        for (int t = 0; t < mediant::kTrials; ++t) {
            const float scale = unit * (0.45f + 0.06f * static_cast<float>(t));
            const float error = group_error(p, w + a, p.conditional + a, size, scale);
            if (error < least) least = error, chosen = scale;
        }
        best = std::max(best, chosen);
    }
    return mediant::to_bfloat16(best * 1.15f * 1.00390625f);
}

struct Scratch {
    std::vector<float> w, gradient, scales, factors;
    std::vector<mediant::Changes> changes;
    explicit Scratch(const Problem &p)
        : w(mediant::kRows * p.readings * p.columns), gradient(mediant::kRows * p.readings * p.columns), scales(mediant::kRows * p.groups),
          factors(mediant::kRows * p.readings * mediant::kStrip), changes(mediant::kRows * p.readings) {}
};

MEDIANT_INLINE float value_of(const Problem &p, float scale, int64_t reading, int code) {
    return scale * p.levels[reading * p.count + code];
}

// The gradient of every reading of every row at the codes that Babai rounding found.
MEDIANT_INLINE void differentiate(const Problem &p, Scratch &s, int64_t first, int64_t count) {
    const int64_t n = p.columns, rows = count * p.readings;
    std::fill(s.gradient.begin(), s.gradient.end(), 0.0f);
    for (int64_t begin = 0; begin < n; begin += mediant::kStrip) {
        const int64_t end = std::min(n, begin + mediant::kStrip);
        for (int64_t i = 0; i < count; ++i)
            for (int64_t r = 0; r < p.readings; ++r)
                for (int64_t j = begin; j < end; ++j) {
                    const float scale = s.scales[i * p.groups + j / p.group];
                    const float value = value_of(p, scale, r, p.codes[(first + i) * n + j]);
                    s.factors[(i * p.readings + r) * mediant::kStrip + j - begin] = value - p.w[(first + i) * n + j];
                }
        mediant::add_strip(s.gradient.data(), p.metric + begin * n, s.factors.data(), n, rows, end - begin, 0, n);
    }
}

MEDIANT_INLINE void move(const Problem &p, Scratch &s, int64_t i, uint8_t &stored, int64_t j, int64_t begin,
                         int64_t end) {
    const int64_t n = p.columns;
    const float *along = p.metric + j * n, inverse_diagonal = 1.0f / along[j];
    const float scale = s.scales[i * p.groups + j / p.group];
    const int old = stored;
    float target[kMostReadings];
    for (int64_t r = 0; r < p.readings; ++r)
        target[r] = value_of(p, scale, r, old) - s.gradient[(i * p.readings + r) * n + j] * inverse_diagonal;
    const int code = code_of(p, target, scale);
    stored = static_cast<uint8_t>(code);
    for (int64_t r = 0; r < p.readings; ++r) {
        const float change = value_of(p, scale, r, code) - value_of(p, scale, r, old);
        if (change == 0) continue;
        s.changes[i * p.readings + r].note(j, change);
        mediant::add(&s.gradient[(i * p.readings + r) * n + begin], along + begin, change, end - begin);
    }
}

MEDIANT_INLINE void descend(const Problem &p, Scratch &s, int64_t first, int64_t count) {
    const int64_t n = p.columns, rows = count * p.readings;
    differentiate(p, s, first, count);
    for (int64_t sweep = 0; sweep < p.sweeps; ++sweep)
        for (int64_t begin = 0; begin < n; begin += mediant::kStrip) {
            const int64_t end = std::min(n, begin + mediant::kStrip);
            for (int64_t j = begin; j < end; ++j)
                for (int64_t i = 0; i < count; ++i) move(p, s, i, p.codes[(first + i) * n + j], j, begin, end);
            mediant::add_changes(s.gradient.data(), p.metric, s.changes.data(), n, rows, begin, end);
        }
}

MEDIANT_CLONES void round_block(const Problem &p, Scratch &s, int64_t first, int64_t count) {
    const int64_t n = p.columns, wide = p.readings * n;
    for (int64_t i = 0; i < count; ++i) {
        for (int64_t r = 0; r < p.readings; ++r)
            std::copy_n(p.w + (first + i) * n, n, s.w.begin() + i * wide + r * n);
        p.row_scales[first + i] = row_scale(p, &s.w[i * wide]);
    }
    for (int64_t g = 0; g < p.groups; ++g) {
        const int64_t begin = g * p.group, end = std::min(begin + p.group, n);
        for (int64_t i = 0; i < count; ++i) {
            float least = INFINITY;
            int chosen = 0;
            for (int64_t k = 0; k < p.factor_count; ++k) {
                const float error = group_error(p, &s.w[i * wide + begin], p.conditional + begin, end - begin,
                                                p.row_scales[first + i] * p.factors[k]);
                if (error < least) least = error, chosen = static_cast<int>(k);
            }
            p.scale_codes[(first + i) * p.groups + g] = static_cast<uint8_t>(chosen);
            s.scales[i * p.groups + g] = p.row_scales[first + i] * p.factors[chosen];
        }
        for (int64_t strip = begin; strip < end; strip += mediant::kStrip) {
            const int64_t stop = std::min(end, strip + mediant::kStrip);
            for (int64_t j = strip; j < stop; ++j)
                for (int64_t i = 0; i < count; ++i) {
                    const float scale = s.scales[i * p.groups + g];
                    float x[kMostReadings];
                    for (int64_t r = 0; r < p.readings; ++r) x[r] = s.w[i * wide + r * n + j];
                    const int code = code_of(p, x, scale);
                    p.codes[(first + i) * n + j] = static_cast<uint8_t>(code);
                    for (int64_t r = 0; r < p.readings; ++r) {
                        const float change = value_of(p, scale, r, code) - x[r];
                        s.factors[(i * p.readings + r) * mediant::kStrip + j - strip] = change;
                        mediant::add(&s.w[i * wide + r * n] + j + 1, p.feedback + j * n + j + 1, change, stop - j - 1);
                    }
                }
            mediant::add_strip(s.w.data(), p.feedback + strip * n, s.factors.data(), n, count * p.readings,
                               stop - strip, stop, n);
        }
    }
    if (p.sweeps > 0) descend(p, s, first, count);
}

using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Codes = nb::ndarray<uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void nested_babai(Matrix w, Matrix feedback, Vector conditional, Matrix metric, Matrix levels, Vector weights,
                  int64_t group, Vector factors, int64_t sweeps, Codes codes, Out row_scales, Codes scale_codes,
                  int threads) {
    const int64_t rows = static_cast<int64_t>(w.shape(0)), columns = static_cast<int64_t>(w.shape(1));
    const Problem p{w.data(), feedback.data(), conditional.data(), metric.data(), levels.data(), weights.data(),
                    factors.data(), columns, group, (columns + group - 1) / group,
                    static_cast<int64_t>(levels.shape(0)), static_cast<int64_t>(levels.shape(1)),
                    static_cast<int64_t>(factors.size()), sweeps, codes.data(), scale_codes.data(), row_scales.data()};
    nb::gil_scoped_release release;
    mediant::parallel_blocks(rows, mediant::kRows, threads, [&] { return Scratch(p); },
                             [&](Scratch &scratch, int64_t first, int64_t count) {
                                 round_block(p, scratch, first, count);
                             });
}

}  // namespace

MEDIANT_KERNEL(nested_babai) {
    m.def("nested_babai", &nested_babai, nb::arg("w"), nb::arg("feedback"), nb::arg("conditional"), nb::arg("metric"),
          nb::arg("levels"), nb::arg("weights"), nb::arg("group"), nb::arg("factors"), nb::arg("sweeps"),
          nb::arg("codes").noconvert(), nb::arg("row_scales").noconvert(), nb::arg("scale_codes").noconvert(),
          nb::arg("threads"));
}
