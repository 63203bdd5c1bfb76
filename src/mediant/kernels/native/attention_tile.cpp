// Native twin of `forward` in mediant.kernels.attention_tile, which states the contract, without softcap. Six queries
// are taken through all their keys at once, so that their scores never leave the first-level cache; keys are turned into
// panels of 16 columns, once for all tiles whose windows overlap. The order of sums, and with it the last bits, differ
// from those of the reference; they do not depend on the number of threads.
#include <cmath>
#include <cstring>

#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include "registry.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define MEDIANT_CLONES __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define MEDIANT_CLONES
#endif
#define MEDIANT_INLINE inline __attribute__((always_inline))

namespace {

typedef float Lanes __attribute__((vector_size(32), aligned(4)));
typedef int32_t Whole __attribute__((vector_size(32), aligned(4)));
constexpr int kLanes = 8;
constexpr int kPanel = 16;
constexpr int kRows = 6;

struct Array {
    const float *data;
    int64_t tile, row;  // strides
};

struct Edge {
    int64_t start, rows, width;
    const float *bias;
};

struct Problem {
    Array q, k, v, first_k, first_v;
    int64_t rows, columns, firsts, size, out_size, padded, firsts_padded, out_padded;
    std::vector<Edge> edges;
    float scale;
    float *out, *log_total;
};

MEDIANT_INLINE void load(Lanes &y, const float *x) { std::memcpy(&y, x, sizeof y); }

MEDIANT_INLINE void store(float *x, const Lanes &y) { std::memcpy(x, &y, sizeof y); }

// acc[r][panel] = sum over i of a[r][i] b[i][panel]; rows of b are `stride` apart.
template <int M>
MEDIANT_INLINE void product(const float *a, int64_t a_stride, const float *b, int64_t b_stride, int64_t count, float *out,
                            int64_t out_stride) {
    Lanes acc[M][2] = {};
    for (int64_t i = 0; i < count; ++i) {
        Lanes low, high;
        load(low, b + i * b_stride);
        load(high, b + i * b_stride + kLanes);
#pragma GCC unroll 6
        for (int r = 0; r < M; ++r) {
            const float x = a[r * a_stride + i];
            acc[r][0] += x * low;
            acc[r][1] += x * high;
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < M; ++r) {
        store(out + r * out_stride, acc[r][0]);
        store(out + r * out_stride + kLanes, acc[r][1]);
    }
}

// exp in place to within two units in the last place, for x <= 0; 0 below -87. Cephes' range reduction and polynomial.
MEDIANT_INLINE void exponential(Lanes &x) {
    const Lanes least = Lanes{} - 87.0f;
    const Lanes clipped = x < least ? least : x;
    const Lanes n = (clipped * 1.44269504f + 12582912.0f) - 12582912.0f;
    const Lanes r = (clipped - n * 0.693359375f) + n * 2.12194440e-4f;
    Lanes y = r * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = (y * r) * r + r + 1.0f;
    const Whole bits = (__builtin_convertvector(n, Whole) + 127) << 23;
    Lanes power;
    std::memcpy(&power, &bits, sizeof power);
    x = x < least ? Lanes{} : y * power;
}

// The shares exp(s - max) of one query in place of its scores; returns the maximum and the sum.
MEDIANT_INLINE float shares(float *s, int64_t padded, float &sum) {
    Lanes tops = Lanes{} - INFINITY, sums = {};
    for (int64_t j = 0; j < padded; j += kLanes) {
        Lanes x;
        load(x, s + j);
        tops = x > tops ? x : tops;
    }
    float top = tops[0];
    for (int l = 1; l < kLanes; ++l) top = tops[l] > top ? tops[l] : top;
    for (int64_t j = 0; j < padded; j += kLanes) {
        Lanes x;
        load(x, s + j);
        x = x - top;
        exponential(x);
        store(s + j, x);
        sums += x;
    }
    sum = 0;
    for (int l = 0; l < kLanes; ++l) sum += sums[l];
    return top;
}

// M queries of tile t from `row` on. `panels` are the keys, the text's first ones too, and `values` rows of at least
// out_padded floats.
template <int M>
MEDIANT_INLINE void strip(const Problem &p, int64_t t, int64_t row, const float *panels, const float *first_panels,
                          const float *values, int64_t values_stride, const float *first_values, float *scratch) {
    const int64_t all = p.padded + p.firsts_padded;
    float *q = scratch, *s = q + M * p.size, *o = s + M * all, *more = o + M * p.out_padded;
    for (int r = 0; r < M; ++r)
        for (int64_t i = 0; i < p.size; ++i) q[r * p.size + i] = p.q.data[t * p.q.tile + (row + r) * p.q.row + i] * p.scale;
    for (int64_t j = 0; j < p.padded; j += kPanel)
        product<M>(q, p.size, panels + j * p.size, kPanel, p.size, s + j, all);
    for (int64_t j = 0; j < p.firsts_padded; j += kPanel)
        product<M>(q, p.size, first_panels + j * p.size, kPanel, p.size, s + p.padded + j, all);
    for (const Edge &e : p.edges)
        for (int r = 0; r < M; ++r) {
            const float *bias = e.bias + (row + r) % e.rows * e.width;
            for (int64_t j = 0; j < e.width; ++j) s[r * all + e.start + j] += bias[j];
        }
    for (int r = 0; r < M; ++r) {
        std::fill(s + r * all + p.columns, s + r * all + p.padded, -INFINITY);
        std::fill(s + r * all + p.padded + p.firsts, s + (r + 1) * all, -INFINITY);
    }
    float tops[M], sums[M];
    for (int r = 0; r < M; ++r) tops[r] = shares(s + r * all, all, sums[r]);
    for (int64_t i = 0; i < p.out_padded; i += kPanel)
        product<M>(s, all, values + i, values_stride, p.columns, o + i, p.out_padded);
    if (p.firsts) {
        for (int64_t i = 0; i < p.out_padded; i += kPanel)
            product<M>(s + p.padded, all, first_values + i, p.out_padded, p.firsts, more + i, p.out_padded);
        for (int64_t i = 0; i < M * p.out_padded; ++i) o[i] += more[i];
    }
    for (int r = 0; r < M; ++r) {
        const float inverse = 1.0f / sums[r];
        float *out = p.out + (t * p.rows + row + r) * p.out_size;
        for (int64_t i = 0; i < p.out_size; ++i) out[i] = o[r * p.out_padded + i] * inverse;
        p.log_total[t * p.rows + row + r] = tops[r] + std::log(sums[r]);
    }
}

MEDIANT_CLONES void attend(const Problem &p, int64_t t, const float *keys, const float *first_keys, const float *values,
                           int64_t stride, const float *first_values, float *scratch) {
    int64_t row = 0;
    for (; row + kRows <= p.rows; row += kRows)
        strip<kRows>(p, t, row, keys, first_keys, values, stride, first_values, scratch);
    for (; row + 2 <= p.rows; row += 2)
        strip<2>(p, t, row, keys, first_keys, values, stride, first_values, scratch);
    for (; row < p.rows; ++row) strip<1>(p, t, row, keys, first_keys, values, stride, first_values, scratch);
}

// Keys in panels of 16: component i of key j is at panels[(j / 16) * 16 * size + i * 16 + j % 16]; zeros fill up.
MEDIANT_CLONES void pack(const float *keys, int64_t stride, int64_t count, int64_t size, float *panels) {
    for (int64_t j = 0; j < count; j += kPanel) {
        float *panel = panels + j * size;
        const int64_t here = std::min<int64_t>(kPanel, count - j);
        if (here < kPanel) std::memset(panel, 0, kPanel * size * sizeof(float));
        for (int64_t i = 0; i < size; ++i)
            for (int64_t l = 0; l < here; ++l) panel[i * kPanel + l] = keys[(j + l) * stride + i];
    }
}

int64_t up(int64_t count) { return (count + kPanel - 1) / kPanel * kPanel; }

void work(const Problem &p, int64_t begin, int64_t end) {
    // Windows that overlap and start whole panels apart are packed together.
    const int64_t step = p.k.row ? p.k.tile / p.k.row : 0;
    const bool together = p.k.tile == step * p.k.row && step > 0 && step % kPanel == 0 && step <= p.columns;
    const int64_t keys = together ? (end - begin - 1) * step + p.columns : p.columns;
    std::vector<float> panels((up(keys) + kPanel) * p.size), 
        scratch(kRows * (p.size + p.padded + p.firsts_padded + 2 * p.out_padded));
    std::vector<float> first_panels(p.firsts_padded * p.size), first_values(p.firsts * p.out_padded);
    const bool narrow = p.out_size != p.out_padded;
    std::vector<float> copied(narrow ? p.columns * p.out_padded : 0);
    if (together) pack(p.k.data + begin * p.k.tile, p.k.row, keys, p.size, panels.data());
    for (int64_t t = begin; t < end; ++t) {
        if (!together) pack(p.k.data + t * p.k.tile, p.k.row, keys, p.size, panels.data());
        const float *values = p.v.data + t * p.v.tile;
        int64_t stride = p.v.row;
        if (narrow) {
            for (int64_t j = 0; j < p.columns; ++j) std::copy_n(values + j * stride, p.out_size, &copied[j * p.out_padded]);
            values = copied.data(), stride = p.out_padded;
        }
        if (p.firsts && (t == begin || p.first_k.tile || p.first_v.tile)) {
            pack(p.first_k.data + t * p.first_k.tile, p.first_k.row, p.firsts, p.size, first_panels.data());
            for (int64_t j = 0; j < p.firsts; ++j)
                std::copy_n(p.first_v.data + t * p.first_v.tile + j * p.first_v.row, p.out_size,
                            &first_values[j * p.out_padded]);
        }
        attend(p, t, panels.data() + (together ? (t - begin) * step * p.size : 0), first_panels.data(), values, stride,
               first_values.data(), scratch.data());
    }
}

using Tiles = nb::ndarray<const float, nb::ndim<3>, nb::device::cpu>;
using Bias = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

Array array(const Tiles &x) { return {x.data(), x.stride(0), x.stride(1)}; }

void attention_tile(Tiles q, Tiles k, Tiles v, Tiles first_k, Tiles first_v,
                    std::vector<std::pair<int64_t, Bias>> edges, float scale, Out out, Out log_total, int threads) {
    const int64_t tiles = static_cast<int64_t>(q.shape(0)), rows = static_cast<int64_t>(q.shape(1));
    const int64_t columns = static_cast<int64_t>(k.shape(1)), size = static_cast<int64_t>(q.shape(2));
    const int64_t out_size = static_cast<int64_t>(v.shape(2));
    const int64_t firsts = static_cast<int64_t>(first_k.shape(1));
    Problem p{array(q), array(k), array(v), array(first_k), array(first_v), rows, columns, firsts, size, out_size,
              up(columns), up(firsts), up(out_size), {}, scale, out.data(), log_total.data()};
    for (const auto &[start, bias] : edges)
        p.edges.push_back({start, static_cast<int64_t>(bias.shape(0)), static_cast<int64_t>(bias.shape(1)), bias.data()});
    nb::gil_scoped_release release;
    mediant::parallel_for(tiles, threads, [&](int64_t begin, int64_t end) {
        if (begin < end) work(p, begin, end);
    });
}

}  // namespace

MEDIANT_KERNEL(attention_tile) {
    m.def("attention_tile", &attention_tile, nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("first_k"), nb::arg("first_v"), nb::arg("edges"),
          nb::arg("scale"), nb::arg("out").noconvert(), nb::arg("log_total").noconvert(), nb::arg("threads"));
}
