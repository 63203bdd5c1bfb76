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

// The costs of columns [begin, end) at a scale; those before `paired` are pairs.
MEDIANT_INLINE float pair_group_error(const float *book, const float *w, const float *d, int64_t begin, int64_t end,
                                      int64_t paired, float scale) {
    const Points points = scaled(book, scale);
    const int64_t middle = std::max(begin, std::min(end, paired)), pairs = (middle - begin) / 2;
    const int64_t count = pairs + (end - middle);
    float lanes[kLanes] = {0};
    for (int64_t i = 0; i < count; i += kLanes) {
        float x[kLanes] = {0}, y[kLanes] = {0}, h[kLanes] = {0}, k[kLanes] = {0}, cost[kLanes];
        const int64_t here = std::min<int64_t>(count - i, kLanes), both = std::clamp<int64_t>(pairs - i, 0, here);
        for (int64_t l = 0; l < both; ++l) {
            const int64_t j = begin + 2 * (i + l);
            x[l] = w[j], y[l] = w[j + 1], h[l] = d[j], k[l] = d[j + 1];
        }
        for (int l = 0; l < kLanes; ++l) cost[l] = INFINITY;
        for (int p = 0; p < kPairs; ++p)
            for (int l = 0; l < kLanes; ++l) {
                const float a = x[l] - points.first[p], b = y[l] - points.second[p];
                const float found = h[l] * (a * a) + k[l] * (b * b);
                cost[l] = found < cost[l] ? found : cost[l];
            }
        for (int64_t l = both; l < here; ++l) {
            const int64_t j = middle + (i + l - pairs);
            cost[l] = INFINITY;
            for (int p = 0; p < kSingles; ++p) {
                const float a = w[j] - points.first[p], found = d[j] * (a * a);
                cost[l] = found < cost[l] ? found : cost[l];
            }
        }
        for (int64_t l = 0; l < here; ++l) lanes[l] += cost[l];
    }
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

}  // namespace mediant
