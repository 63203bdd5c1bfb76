// Columns taken in strips, for kernels in which every column that is settled adds a multiple of a row of a matrix to what
// is still to be settled. Within its strip it does so at once; in all other columns the strip's multiples are added when
// it is done, in the order of its columns, for many rows together: so the matrix is read once for all of them, and the
// sums stay in registers. Every sum has the same terms in the same order as without strips, none fused: the same bits.
#pragma once

#include <algorithm>
#include <cstdint>

#if defined(__x86_64__) && defined(__GNUC__)
#define MEDIANT_CLONES __attribute__((target_clones("avx2", "default")))
#define MEDIANT_INLINE inline __attribute__((always_inline))
#else
#define MEDIANT_CLONES
#define MEDIANT_INLINE inline
#endif

namespace mediant {

// Columns of a strip, an even number; rows that are taken together, and of these, whose sums are in registers together;
// columns whose part of a strip stays in the first cache while all rows take it.
constexpr int64_t kStrip = 32;
constexpr int64_t kRows = 32;
constexpr int kAbreast = 4;
constexpr int64_t kChunk = 64;
// Floats of a vector. Vectors are spelled out, as compilers turn loops over rows and columns inside out.
constexpr int kLanes = 8;
typedef float Lanes __attribute__((vector_size(32), aligned(4), may_alias));

MEDIANT_INLINE Lanes &lanes(float *at) { return *reinterpret_cast<Lanes *>(at); }
MEDIANT_INLINE const Lanes &lanes(const float *at) { return *reinterpret_cast<const Lanes *>(at); }
MEDIANT_INLINE Lanes splat(float x) { return Lanes{x, x, x, x, x, x, x, x}; }

MEDIANT_INLINE void add(float *__restrict y, const float *__restrict x, float a, int64_t count) {
    for (int64_t i = 0; i < count; ++i) y[i] += a * x[i];
}

template <int kHeight, int kVectors>
MEDIANT_INLINE void add_tile(float *y, const float *part, const float *factors, int64_t n, int64_t count) {
    Lanes sums[kHeight][kVectors];
    for (int r = 0; r < kHeight; ++r)
        for (int v = 0; v < kVectors; ++v) sums[r][v] = lanes(y + r * n + v * kLanes);
    for (int64_t j = 0; j < count; ++j) {
        Lanes row[kVectors];
        for (int v = 0; v < kVectors; ++v) row[v] = lanes(part + j * kChunk + v * kLanes);
        for (int r = 0; r < kHeight; ++r)
            for (int v = 0; v < kVectors; ++v) sums[r][v] += factors[r * kStrip + j] * row[v];
    }
    for (int r = 0; r < kHeight; ++r)
        for (int v = 0; v < kVectors; ++v) lanes(y + r * n + v * kLanes) = sums[r][v];
}

template <int kHeight>
MEDIANT_INLINE void add_chunk(float *y, const float *part, const float *factors, int64_t n, int64_t count,
                              int64_t width) {
    int64_t k = 0;
    for (; k + 2 * kLanes <= width; k += 2 * kLanes) add_tile<kHeight, 2>(y + k, part + k, factors, n, count);
    for (; k + kLanes <= width; k += kLanes) add_tile<kHeight, 1>(y + k, part + k, factors, n, count);
    for (int r = 0; r < kHeight; ++r)
        for (int64_t j = 0; j < count; ++j)
            for (int64_t i = k; i < width; ++i) y[r * n + i] += factors[r * kStrip + j] * part[j * kChunk + i];
}

// y[r, k] += sum_j factors[r, j] matrix[j, k] over the `count` columns j of a strip, for k in [begin, end). y is
// [rows, n], matrix [count, n], factors [rows, kStrip].
MEDIANT_INLINE void add_strip(float *y, const float *matrix, const float *factors, int64_t n, int64_t rows,
                              int64_t count, int64_t begin, int64_t end) {
    float part[kStrip * kChunk];
    for (int64_t chunk = begin; chunk < end; chunk += kChunk) {
        const int64_t width = std::min(kChunk, end - chunk);
        // Rows of a matrix fall on each other in the cache where its width is a multiple of many lines.
        for (int64_t j = 0; j < count; ++j) std::copy_n(matrix + j * n + chunk, width, part + j * kChunk);
        int64_t r = 0;
        for (; r + kAbreast <= rows; r += kAbreast)
            add_chunk<kAbreast>(y + r * n + chunk, part, factors + r * kStrip, n, count, width);
        for (; r < rows; ++r) add_chunk<1>(y + r * n + chunk, part, factors + r * kStrip, n, count, width);
    }
}

// y[r, k] += sum_j (x[r, j] - w[r, j]) matrix[j, k], all [rows, n] but the matrix [n, n]; at most kRows rows.
MEDIANT_INLINE void add_differences(float *y, const float *matrix, const float *x, const float *w, int64_t n,
                                    int64_t rows) {
    float factors[kRows * kStrip];
    for (int64_t begin = 0; begin < n; begin += kStrip) {
        const int64_t count = std::min(kStrip, n - begin);
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t j = 0; j < count; ++j) factors[r * kStrip + j] = x[r * n + begin + j] - w[r * n + begin + j];
        add_strip(y, matrix + begin * n, factors, n, rows, count, 0, n);
    }
}

// What one row changed by in some columns of a strip.
struct Changes {
    int64_t count = 0, columns[kStrip];
    float factors[kStrip];

    MEDIANT_INLINE void note(int64_t column, float factor) { columns[count] = column, factors[count++] = factor; }
};

template <int kVectors>
MEDIANT_INLINE void add_changes_tile(float *y, const float *matrix, const Changes &changes, int64_t n) {
    Lanes sums[kVectors];
    for (int v = 0; v < kVectors; ++v) sums[v] = lanes(y + v * kLanes);
    for (int64_t c = 0; c < changes.count; ++c) {
        const float *row = matrix + changes.columns[c] * n;
        for (int v = 0; v < kVectors; ++v) sums[v] += changes.factors[c] * lanes(row + v * kLanes);
    }
    for (int v = 0; v < kVectors; ++v) lanes(y + v * kLanes) = sums[v];
}

MEDIANT_INLINE void add_changes_to_row(float *y, const float *matrix, const Changes &changes, int64_t n, int64_t begin,
                                       int64_t end) {
    int64_t k = begin;
    for (; k + 4 * kLanes <= end; k += 4 * kLanes) add_changes_tile<4>(y + k, matrix + k, changes, n);
    for (; k + kLanes <= end; k += kLanes) add_changes_tile<1>(y + k, matrix + k, changes, n);
    for (int64_t c = 0; c < changes.count; ++c)
        for (int64_t i = k; i < end; ++i) y[i] += changes.factors[c] * matrix[changes.columns[c] * n + i];
}

// y[r, k] += sum over r's changes of factor * matrix[column, k], for k in [0, n) outside of [begin, end); empties them.
// y is [rows, n], matrix [n, n].
MEDIANT_INLINE void add_changes(float *y, const float *matrix, Changes *changes, int64_t n, int64_t rows,
                                int64_t begin, int64_t end) {
    const int64_t parts[2][2] = {{0, begin}, {end, n}};
    for (const auto &part : parts)
        for (int64_t chunk = part[0]; chunk < part[1]; chunk += kChunk)
            for (int64_t r = 0; r < rows; ++r)
                add_changes_to_row(y + r * n, matrix, changes[r], n, chunk, std::min(part[1], chunk + kChunk));
    for (int64_t r = 0; r < rows; ++r) changes[r].count = 0;
}

}  // namespace mediant
