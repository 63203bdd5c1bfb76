// Native twin of mediant.kernels.rate_babai, which states the contract. Rows are independent; several are taken
// together, in strips of columns (strips.h). No sum is reordered and no product fused: the bits are those of the
// reference.
#include <cmath>

#include "registry.h"
#include "strips.h"

namespace {

constexpr float kMost = 32767.0f;
constexpr float kSteep = 0.05f;

struct Problem {
    const float *w, *feedback, *metric, *row_steps, *column_steps, *row_weights, *column_weights, *descent_weights;
    const float *prices;
    const uint8_t *row_classes, *column_classes;
    int64_t columns, magnitudes, sweeps;
    int16_t *numbers;
};

MEDIANT_INLINE float cost(const float *table, float last, float x, float k, float weight) {
    const float error = x - k, magnitude = std::fabs(k), within = std::fmin(magnitude, last);
    return weight * (error * error) + (table[static_cast<int64_t>(within)] + (magnitude - within) * kSteep);
}

MEDIANT_INLINE float at(const Problem &p, int64_t i, int64_t j, float x, float k, float weight) {
    const float *table = p.prices + (int64_t{p.row_classes[i]} + p.column_classes[j]) * p.magnitudes;
    return cost(table, static_cast<float>(p.magnitudes - 1), x, k, weight);
}

MEDIANT_INLINE float choose(const Problem &p, int64_t i, int64_t j, float x, float weight) {
    const float *table = p.prices + (int64_t{p.row_classes[i]} + p.column_classes[j]) * p.magnitudes;
    const float last = static_cast<float>(p.magnitudes - 1);
    const float rounded = __builtin_rintf(x);
    const float nearest = rounded < -kMost ? -kMost : rounded > kMost ? kMost : rounded;
    if (nearest == 0) return 0;
    const float inner = nearest - (nearest > 0 ? 1.0f : -1.0f);
    const float at_nearest = cost(table, last, x, nearest, weight), at_inner = cost(table, last, x, inner, weight);
    const float best = at_inner < at_nearest ? inner : nearest;
    return cost(table, last, x, 0.0f, weight) < std::fmin(at_nearest, at_inner) ? 0.0f : best;
}

MEDIANT_INLINE float step_of(const Problem &p, int64_t i, int64_t j) { return p.row_steps[i] * p.column_steps[j]; }

MEDIANT_INLINE void sweep(const Problem &p, float *gradient, int64_t first, int64_t count) {
    const int64_t n = p.columns;
    mediant::Changes changes[mediant::kRows];
    for (int64_t begin = 0; begin < n; begin += mediant::kStrip) {
        const int64_t end = std::min(n, begin + mediant::kStrip);
        for (int64_t j = begin; j < end; ++j) {
            const float *along = p.metric + j * n, inverse_diagonal = 1.0f / along[j];
            for (int64_t r = 0; r < count; ++r) {
                const int64_t i = first + r;
                const float step = step_of(p, i, j), weight = p.row_weights[i] * p.descent_weights[j];
                const float number = static_cast<float>(p.numbers[i * n + j]);
                const float x = number - gradient[r * n + j] * inverse_diagonal * (1.0f / step);
                const float chosen = choose(p, i, j, x, weight);
                if (chosen == number || at(p, i, j, x, number, weight) <= at(p, i, j, x, chosen, weight)) continue;
                const float change = step * (chosen - number);
                p.numbers[i * n + j] = static_cast<int16_t>(chosen);
                changes[r].note(j, change);
                mediant::add(gradient + r * n + begin, along + begin, change, end - begin);
            }
        }
        mediant::add_changes(gradient, p.metric, changes, n, count, begin, end);
    }
}

MEDIANT_INLINE void descend(const Problem &p, float *decoded, float *gradient, int64_t first, int64_t count) {
    const int64_t n = p.columns;
    std::fill_n(gradient, count * n, 0.0f);
    for (int64_t r = 0; r < count; ++r)
        for (int64_t j = 0; j < n; ++j)
            decoded[r * n + j] = step_of(p, first + r, j) * static_cast<float>(p.numbers[(first + r) * n + j]);
    mediant::add_differences(gradient, p.metric, decoded, p.w + first * n, n, count);
    for (int64_t s = 0; s < p.sweeps; ++s) sweep(p, gradient, first, count);
}

MEDIANT_CLONES void round_block(const Problem &p, float *scratch, float *gradient, int64_t first, int64_t count) {
    const int64_t n = p.columns;
    float changes[mediant::kRows * mediant::kStrip];
    std::copy_n(p.w + first * n, count * n, scratch);
    for (int64_t begin = 0; begin < n; begin += mediant::kStrip) {
        const int64_t end = std::min(n, begin + mediant::kStrip);
        for (int64_t j = begin; j < end; ++j)
            for (int64_t r = 0; r < count; ++r) {
                const int64_t i = first + r;
                const float step = step_of(p, i, j), w = scratch[r * n + j];
                const float number = choose(p, i, j, w * (1.0f / step), p.row_weights[i] * p.column_weights[j]);
                const float change = step * number - w;
                p.numbers[i * n + j] = static_cast<int16_t>(number);
                changes[r * mediant::kStrip + j - begin] = change;
                mediant::add(scratch + r * n + j + 1, p.feedback + j * n + j + 1, change, end - j - 1);
            }
        mediant::add_strip(scratch, p.feedback + begin * n, changes, n, count, end - begin, end, n);
    }
    if (p.sweeps > 0) descend(p, scratch, gradient, first, count);
}

using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Classes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Numbers = nb::ndarray<int16_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void rate_babai(Matrix w, Matrix feedback, Matrix metric, Vector row_steps, Vector column_steps, Vector row_weights,
                Vector column_weights, Vector descent_weights, Matrix prices, Classes row_classes,
                Classes column_classes, int64_t sweeps, Numbers numbers, int threads) {
    const int64_t rows = static_cast<int64_t>(w.shape(0)), columns = static_cast<int64_t>(w.shape(1));
    const Problem p{w.data(), feedback.data(), metric.data(), row_steps.data(), column_steps.data(),
                    row_weights.data(), column_weights.data(), descent_weights.data(), prices.data(),
                    row_classes.data(), column_classes.data(), columns, static_cast<int64_t>(prices.shape(1)), sweeps,
                    numbers.data()};
    nb::gil_scoped_release release;
    const auto scratch = [&] { return std::vector<float>(2 * mediant::kRows * columns); };
    mediant::parallel_blocks(rows, mediant::kRows, threads, scratch, [&](auto &room, int64_t first, int64_t count) {
        round_block(p, room.data(), room.data() + mediant::kRows * columns, first, count);
    });
}

}  // namespace

MEDIANT_KERNEL(rate_babai) {
    m.def("rate_babai", &rate_babai, nb::arg("w"), nb::arg("feedback"), nb::arg("metric"), nb::arg("row_steps"),
          nb::arg("column_steps"), nb::arg("row_weights"), nb::arg("column_weights"), nb::arg("descent_weights"),
          nb::arg("prices"), nb::arg("row_classes"), nb::arg("column_classes"), nb::arg("sweeps"),
          nb::arg("numbers").noconvert(), nb::arg("threads"));
}
