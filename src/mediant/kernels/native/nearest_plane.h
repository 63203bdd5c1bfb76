// What the kernels that round rows against a lattice share: the grid, scales, and sums in lanes. No sum is reordered and
// no product fused, so that the bits are those of the references in Python (mediant.kernels.babai states the contract).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#if defined(__x86_64__) && defined(__GNUC__)
#define MEDIANT_CLONES __attribute__((target_clones("avx2", "default")))
#define MEDIANT_INLINE inline __attribute__((always_inline))
#else
#define MEDIANT_CLONES
#define MEDIANT_INLINE inline
#endif

namespace mediant {

constexpr int kLanes = 8;
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

// The same sum as _group_error of the reference.
MEDIANT_INLINE float group_error(const Grid &grid, const float *w, const float *d, int64_t size, float scale) {
    const float factor = inverse(scale);
    const float top = static_cast<float>(grid.count - 1);
    float lanes[kLanes] = {0};
    for (int64_t i = 0; i < size; i += kLanes) {
        float x[kLanes] = {0}, h[kLanes] = {0}, level[kLanes];
        const int64_t count = size - i < kLanes ? size - i : kLanes;
        for (int64_t l = 0; l < count; ++l) x[l] = w[i + l], h[l] = d[i + l];
        if (grid.affine) {
            for (int l = 0; l < kLanes; ++l) {
                float position = __builtin_rintf(x[l] * factor - grid.levels[0]);
                position = position < 0 ? 0.0f : position > top ? top : position;
                level[l] = position + grid.levels[0];
            }
        } else {
            float y[kLanes];
            for (int l = 0; l < kLanes; ++l) y[l] = x[l] * factor, level[l] = grid.levels[0];
            for (int64_t k = 0; k + 1 < grid.count; ++k) {
                const float middle = grid.middles[k], next = grid.levels[k + 1];
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

MEDIANT_INLINE float row_scale(const Grid &grid, const float *w, const float *d, int64_t columns, int64_t group) {
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
    return to_bfloat16(best * 1.15f * 1.00390625f);
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
