// What the kernels that round rows against a lattice share: the grid, scales, and sums in lanes. No sum is reordered and
// no product fused, so that the bits are those of the references in Python (mediant.kernels.babai states the contract).
#pragma once

#include <cmath>

#include "strips.h"

namespace mediant {

constexpr int kTrials = 12;

// Ascending levels; `middles` lie between neighbours. An affine grid has levels 1 apart.
struct Grid {
    const float *levels, *middles;
    int64_t count;
    bool affine;
};

MEDIANT_INLINE float inverse(float scale) { return scale == 0 ? 0.0f : 1.0f / scale; }

MEDIANT_INLINE int code_of(const Grid &grid, float x) {
    if (grid.affine) {
        const float top = static_cast<float>(grid.count - 1);
        const float position = __builtin_rintf(x - grid.levels[0]);
        return static_cast<int>(position < 0 ? 0.0f : position > top ? top : position);
    }
    int below = 0;
    for (int64_t k = 0; k + 1 < grid.count; ++k) below += grid.middles[k] < x;
    return below;
}

// Every number x becomes the level nearest to it.
template <int kVectors>
MEDIANT_INLINE void to_nearest(const Grid &grid, Lanes *x) {
    if (grid.affine) {
        const Lanes first = splat(grid.levels[0]), top = splat(static_cast<float>(grid.count - 1));
        for (int v = 0; v < kVectors; ++v) {
            Lanes position = x[v] - first;
            for (int l = 0; l < kLanes; ++l) position[l] = __builtin_rintf(position[l]);
            position = position < 0 ? Lanes{} : position > top ? top : position;
            x[v] = position + first;
        }
        return;
    }
    Lanes level[kVectors];
    for (int v = 0; v < kVectors; ++v) level[v] = splat(grid.levels[0]);
    for (int64_t k = 0; k + 1 < grid.count; ++k) {
        const Lanes middle = splat(grid.middles[k]), next = splat(grid.levels[k + 1]);
        for (int v = 0; v < kVectors; ++v) level[v] = middle < x[v] ? next : level[v];
    }
    for (int v = 0; v < kVectors; ++v) x[v] = level[v];
}

template <int kVectors>
MEDIANT_INLINE void add_errors(Lanes &sums, const Grid &grid, const float *w, const float *d, float scale) {
    const float factor = inverse(scale);
    Lanes level[kVectors];
    for (int v = 0; v < kVectors; ++v) level[v] = lanes(w + v * kLanes) * factor;
    to_nearest<kVectors>(grid, level);
    for (int v = 0; v < kVectors; ++v) {
        const Lanes error = lanes(w + v * kLanes) - scale * level[v];
        sums += lanes(d + v * kLanes) * (error * error);
    }
}

MEDIANT_INLINE float summed(Lanes x) { return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7])); }

// The same sum as _group_error of the reference.
MEDIANT_INLINE float group_error(const Grid &grid, const float *w, const float *d, int64_t size, float scale) {
    Lanes sums{};
    int64_t i = 0;
    for (; i + 4 * kLanes <= size; i += 4 * kLanes) add_errors<4>(sums, grid, w + i, d + i, scale);
    for (; i + kLanes <= size; i += kLanes) add_errors<1>(sums, grid, w + i, d + i, scale);
    if (i < size) {
        float x[kLanes] = {0}, weight[kLanes] = {0};
        std::copy(w + i, w + size, x), std::copy(d + i, d + size, weight);
        add_errors<1>(sums, grid, x, weight, scale);
    }
    return summed(sums);
}

// float32 to the nearest bfloat16, ties to even, for finite values.
MEDIANT_INLINE float to_bfloat16(float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000u;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}

MEDIANT_INLINE float row_scale(const Grid &grid, const float *w, const float *d, int64_t columns, int64_t group,
                               float headroom = 1.15f) {
    const float top = std::max(std::fabs(grid.levels[0]), std::fabs(grid.levels[grid.count - 1]));
    float best = 0;
    for (int64_t a = 0; a < columns; a += group) {
        const int64_t size = std::min(group, columns - a);
        float peak = 0;
        for (int64_t j = a; j < a + size; ++j) peak = std::max(peak, std::fabs(w[j]));
        const float unit = peak / top;
        float least = INFINITY, chosen = 0;
        for (int t = 0; t < kTrials; ++t) {
            const float scale = unit * (0.45f + 0.06f * static_cast<float>(t));
            const float error = group_error(grid, w + a, d + a, size, scale);
            if (error < least) least = error, chosen = scale;
        }
        best = std::max(best, chosen);
    }
    return to_bfloat16(best * headroom * 1.00390625f);
}

MEDIANT_INLINE int best_factor(const Grid &grid, const float *w, const float *d, int64_t size, float row,
                               const float *factors, int64_t factor_count) {
    float least = INFINITY;
    int chosen = 0;
    for (int64_t k = 0; k < factor_count; ++k) {
        const float error = group_error(grid, w, d, size, row * factors[k]);
        if (error < least) least = error, chosen = static_cast<int>(k);
    }
    return chosen;
}

}  // namespace mediant
