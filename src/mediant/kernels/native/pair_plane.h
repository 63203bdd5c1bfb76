// What the kernels share that round in pairs: the codebook and the costs of a group. No sum is reordered and no product
// fused, so that the bits are those of the references in Python (mediant.kernels.pair_babai states the contract).
#pragma once

#include "nearest_plane.h"

namespace mediant {

constexpr int kPairs = 16;
constexpr int kSingles = 4;

// Points of the plane, times a scale.
struct Points {
    float first[kPairs], second[kPairs];
};

MEDIANT_INLINE Points scaled(const float *book, float scale) {
    Points points;
    for (int p = 0; p < kPairs; ++p) points.first[p] = scale * book[p], points.second[p] = scale * book[kPairs + p];
    return points;
}

// The first of the least costs.
MEDIANT_INLINE int least(const float *costs, int count) {
    int best = 0;
    for (int p = 1; p < count; ++p) best = costs[p] < costs[best] ? p : best;
    return best;
}

// Scales that are tried together.
constexpr int kTogether = 16;

MEDIANT_INLINE float single_cost(const Points &points, float w, float d) {
    float cost = INFINITY;
    for (int p = 0; p < kSingles; ++p) {
        const float a = w - points.first[p], found = d * (a * a);
        cost = found < cost ? found : cost;
    }
    return cost;
}

// Pairs x, y with weights h, k.
struct Pairs {
    Lanes x, y, h, k;

    MEDIANT_INLINE Lanes costs(const Points &points) const {
        Lanes cost = splat(INFINITY);
        for (int p = 0; p < kPairs; ++p) {
            const Lanes a = x - points.first[p], b = y - points.second[p];
            const Lanes found = h * (a * a) + k * (b * b);
            cost = found < cost ? found : cost;
        }
        return cost;
    }
};

// The costs of columns [begin, end) at each of `count` scales; those before `vq2d` are pairs.
MEDIANT_INLINE void pair_group_errors(const float *book, const float *w, const float *d, int64_t begin, int64_t end,
                                      int64_t paired, const float *scales, int64_t count, float *errors) {
    const int64_t middle = std::max(begin, std::min(end, paired)), pairs = (middle - begin) / 2;
    const int64_t items = pairs + (end - middle);
    for (int64_t base = 0; base < count; base += kTogether) {
        const int64_t tried = std::min<int64_t>(kTogether, count - base);
        Points points[kTogether];
        Lanes sums[kTogether];
        for (int64_t s = 0; s < tried; ++s) points[s] = scaled(book, scales[base + s]), sums[s] = Lanes{};
        for (int64_t i = 0; i < items; i += kLanes) {
            const int64_t here = std::min<int64_t>(items - i, kLanes), both = std::clamp<int64_t>(pairs - i, 0, here);
            Pairs found{};
            for (int64_t l = 0; l < both; ++l) {
                const int64_t j = begin + 2 * (i + l);
                found.x[l] = w[j], found.y[l] = w[j + 1], found.h[l] = d[j], found.k[l] = d[j + 1];
            }
            for (int64_t s = 0; s < tried; ++s) {
                Lanes costs = found.costs(points[s]);
                for (int64_t l = both; l < kLanes; ++l) {
                    const int64_t j = middle + (i + l - pairs);
                    costs[l] = l < here ? single_cost(points[s], w[j], d[j]) : 0.0f;
                }
                sums[s] += costs;
            }
        }
        for (int64_t s = 0; s < tried; ++s) errors[base + s] = summed(sums[s]);
    }
}

}  // namespace mediant
