// Native twin of mediant.kernels.babai, which states the contract. Rows are independent; four are taken together so that
// each row of the feedback matrix is read once for all of them. No sum is reordered and no product fused: the bits are
// those of the reference.
#include <cmath>

#include "registry.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define MEDIANT_CLONES __attribute__((target_clones("avx2", "default")))
#define MEDIANT_INLINE inline __attribute__((always_inline))
#else
#define MEDIANT_CLONES
#define MEDIANT_INLINE inline
#endif

namespace {

constexpr int kLanes = 8;
constexpr int kBlock = 4;
constexpr int kTrials = 12;

struct Problem {
    const float *w, *feedback, *conditional, *metric, *levels, *factors;
    const float *middles;
    int64_t columns, group, groups, level_count, factor_count, sweeps;
    bool affine;
    uint8_t *codes, *scale_codes;
    float *row_scales;
};

MEDIANT_INLINE float inverse(float scale) { return scale == 0 ? 0.0f : 1.0f / scale; }

MEDIANT_INLINE int code_of(const Problem &p, float x) {
    if (p.affine) {
        const float top = static_cast<float>(p.level_count - 1);
        const float position = __builtin_rintf(x - p.levels[0]);
        return static_cast<int>(position < 0 ? 0.0f : position > top ? top : position);
    }
    int below = 0;
    for (int64_t k = 0; k + 1 < p.level_count; ++k) below += p.middles[k] < x;
    return below;
}

// The same sum as _group_error of the reference.
MEDIANT_INLINE float group_error(const Problem &p, const float *w, const float *d, int64_t size, float scale) {
    const float factor = inverse(scale);
    const float top = static_cast<float>(p.level_count - 1);
    float lanes[kLanes] = {0};
    for (int64_t i = 0; i < size; i += kLanes) {
        float x[kLanes] = {0}, h[kLanes] = {0}, level[kLanes];
        const int64_t count = size - i < kLanes ? size - i : kLanes;
        for (int64_t l = 0; l < count; ++l) x[l] = w[i + l], h[l] = d[i + l];
        if (p.affine) {
            for (int l = 0; l < kLanes; ++l) {
                float position = __builtin_rintf(x[l] * factor - p.levels[0]);
                position = position < 0 ? 0.0f : position > top ? top : position;
                level[l] = position + p.levels[0];
            }
        } else {
            float y[kLanes];
            for (int l = 0; l < kLanes; ++l) y[l] = x[l] * factor, level[l] = p.levels[0];
            for (int64_t k = 0; k + 1 < p.level_count; ++k) {
                const float middle = p.middles[k], next = p.levels[k + 1];
                for (int l = 0; l < kLanes; ++l) level[l] = middle < y[l] ? next : level[l];
            }
        }
        for (int l = 0; l < kLanes; ++l) {
            const float error = x[l] - scale * level[l];
            lanes[l] += h[l] * (error * error);
        }
    }
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

MEDIANT_INLINE void subtract(float *__restrict y, const float *__restrict x, float a, int64_t count) {
    for (int64_t i = 0; i < count; ++i) y[i] -= a * x[i];
}

MEDIANT_INLINE void add(float *__restrict y, const float *__restrict x, float a, int64_t count) {
    for (int64_t i = 0; i < count; ++i) y[i] += a * x[i];
}

// float32 to the nearest bfloat16, ties to even, for finite values.
MEDIANT_INLINE float to_bfloat16(float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000u;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}

MEDIANT_INLINE float row_scale(const Problem &p, const float *w) {
    const float top = std::max(std::fabs(p.levels[0]), std::fabs(p.levels[p.level_count - 1]));
    float best = 0;
    for (int64_t a = 0; a < p.columns; a += p.group) {
        const int64_t size = std::min(p.group, p.columns - a);
        float peak = 0;
        for (int64_t j = a; j < a + size; ++j) peak = std::max(peak, std::fabs(w[j]));
        const float unit = peak / top;
        float least = INFINITY, chosen = 0;
        for (int t = 0; t < kTrials; ++t) {
            const float scale = unit * (0.45f + 0.06f * static_cast<float>(t));
            const float error = group_error(p, w + a, p.conditional + a, size, scale);
            if (error < least) least = error, chosen = scale;
        }
        best = std::max(best, chosen);
    }
    return to_bfloat16(best * 1.15f * 1.00390625f);
}

MEDIANT_INLINE int best_factor(const Problem &p, const float *w, const float *d, int64_t size, float row) {
    float least = INFINITY;
    int chosen = 0;
    for (int64_t k = 0; k < p.factor_count; ++k) {
        const float error = group_error(p, w, d, size, row * p.factors[k]);
        if (error < least) least = error, chosen = static_cast<int>(k);
    }
    return chosen;
}

struct Scratch {
    std::vector<float> w, decoded, gradient, scales;
    Scratch(int64_t columns, int64_t groups)
        : w(kBlock * columns), decoded(kBlock * columns), gradient(kBlock * columns), scales(kBlock * groups) {}
};

MEDIANT_INLINE void descend(const Problem &p, Scratch &s, int64_t first, int64_t count) {
    const int64_t n = p.columns;
    std::fill(s.gradient.begin(), s.gradient.end(), 0.0f);
    for (int64_t j = 0; j < n; ++j)
        for (int64_t r = 0; r < count; ++r)
            add(&s.gradient[r * n], p.metric + j * n, s.decoded[r * n + j] - p.w[(first + r) * n + j], n);
    for (int64_t sweep = 0; sweep < p.sweeps; ++sweep)
        for (int64_t j = 0; j < n; ++j)
            for (int64_t r = 0; r < count; ++r) {
                const float scale = s.scales[r * p.groups + j / p.group];
                const float inverse_diagonal = 1.0f / p.metric[j * n + j];
                float &decoded = s.decoded[r * n + j];
                const float target = decoded - s.gradient[r * n + j] * inverse_diagonal;
                const int code = code_of(p, target * inverse(scale));
                const float value = scale * p.levels[code], change = value - decoded;
                p.codes[(first + r) * n + j] = static_cast<uint8_t>(code);
                if (change != 0) add(&s.gradient[r * n], p.metric + j * n, change, n);
                decoded = value;
            }
}

MEDIANT_CLONES void round_block(const Problem &p, Scratch &s, int64_t first, int64_t count) {
    const int64_t n = p.columns;
    std::copy(p.w + first * n, p.w + (first + count) * n, s.w.begin());
    for (int64_t r = 0; r < count; ++r) p.row_scales[first + r] = row_scale(p, &s.w[r * n]);
    for (int64_t g = 0; g < p.groups; ++g) {
        const int64_t begin = g * p.group, end = std::min(begin + p.group, n);
        for (int64_t r = 0; r < count; ++r) {
            const float row = p.row_scales[first + r];
            const int k = best_factor(p, &s.w[r * n + begin], p.conditional + begin, end - begin, row);
            p.scale_codes[(first + r) * p.groups + g] = static_cast<uint8_t>(k);
            s.scales[r * p.groups + g] = row * p.factors[k];
        }
        for (int64_t j = begin; j < end; ++j)
            for (int64_t r = 0; r < count; ++r) {
                const float scale = s.scales[r * p.groups + g], w = s.w[r * n + j];
                const int code = code_of(p, w * inverse(scale));
                const float value = scale * p.levels[code];
                p.codes[(first + r) * n + j] = static_cast<uint8_t>(code);
                s.decoded[r * n + j] = value;
                subtract(&s.w[r * n + j + 1], p.feedback + j * n + j + 1, w - value, n - j - 1);
            }
    }
    if (p.sweeps > 0) descend(p, s, first, count);
}

using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Codes = nb::ndarray<uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void babai(Matrix w, Matrix feedback, Vector conditional, Matrix metric, Vector levels, bool affine, int64_t group,
           Vector factors, int64_t sweeps, Codes codes, Out row_scales, Codes scale_codes, int threads) {
    const int64_t rows = static_cast<int64_t>(w.shape(0)), columns = static_cast<int64_t>(w.shape(1));
    const int64_t level_count = static_cast<int64_t>(levels.size());
    std::vector<float> middles(std::max<int64_t>(level_count - 1, 1));
    for (int64_t k = 0; k + 1 < level_count; ++k) middles[k] = (levels.data()[k + 1] + levels.data()[k]) * 0.5f;
    const Problem p{w.data(), feedback.data(), conditional.data(), metric.data(), levels.data(), factors.data(),
                    middles.data(), columns, group, (columns + group - 1) / group, level_count,
                    static_cast<int64_t>(factors.size()), sweeps, affine, codes.data(), scale_codes.data(),
                    row_scales.data()};
    nb::gil_scoped_release release;
    mediant::parallel_for((rows + kBlock - 1) / kBlock, threads, [&](int64_t begin, int64_t end) {
        Scratch scratch(p.columns, p.groups);
        for (int64_t block = begin; block < end; ++block) {
            const int64_t first = block * kBlock;
            round_block(p, scratch, first, std::min<int64_t>(kBlock, rows - first));
        }
    });
}

}  // namespace

MEDIANT_KERNEL(babai) {
    m.def("babai", &babai, nb::arg("w"), nb::arg("feedback"), nb::arg("conditional"), nb::arg("metric"),
          nb::arg("levels"), nb::arg("affine"), nb::arg("group"), nb::arg("factors"), nb::arg("sweeps"),
          nb::arg("codes").noconvert(), nb::arg("row_scales").noconvert(), nb::arg("scale_codes").noconvert(),
          nb::arg("threads"));
}
