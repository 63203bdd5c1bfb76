// Native twin of mediant.kernels.pair_descent, which states the contract. Rows are independent; several are taken
// together, in strips of columns (strips.h).
#include "pair_plane.h"
#include "registry.h"

namespace {


struct Problem {
    const float *w, *metric, *scales, *book;
    int64_t columns, group, groups, paired, sweeps;
    uint8_t *codes;
};

// One row, and the strip that its columns are in.
struct Row {
    float *decoded, *gradient;
    uint8_t *codes;
    mediant::Changes &changes;
    int64_t begin, end;

    MEDIANT_INLINE void change(const Problem &p, int64_t j, int code, float value, float by) {
        codes[j] = static_cast<uint8_t>(code);
        decoded[j] = value;
        changes.note(j, by);
        mediant::add(gradient + begin, p.metric + j * p.columns + begin, by, end - begin);
    }
};

MEDIANT_INLINE void move_pair(const Problem &p, float scale, Row row, int64_t j) {
    const float *decoded = row.decoded, *gradient = row.gradient;
    const mediant::Points points = mediant::scaled(p.book, scale);
    const float *along = p.metric + j * p.columns, *next = along + p.columns;
    const float r1 = gradient[j] + gradient[j], r2 = gradient[j + 1] + gradient[j + 1], cross = along[j + 1] + along[j + 1];
    float costs[mediant::kPairs];
    for (int k = 0; k < mediant::kPairs; ++k) {
        const float x = points.first[k] - decoded[j], y = points.second[k] - decoded[j + 1];
        costs[k] = (x * (r1 + along[j] * x) + y * (r2 + next[j + 1] * y)) + cross * (x * y);
    }
    const int best = mediant::least(costs, mediant::kPairs);
    if (!(costs[best] < 0)) return;
    const float x = points.first[best] - decoded[j], y = points.second[best] - decoded[j + 1];
    row.change(p, j, best, points.first[best], x);
    row.change(p, j + 1, mediant::kPairs + best, points.second[best], y);
}

MEDIANT_INLINE void move_single(const Problem &p, float scale, Row row, int64_t j) {
    const float *along = p.metric + j * p.columns, r = row.gradient[j] + row.gradient[j];
    float costs[mediant::kSingles], moves[mediant::kSingles];
    for (int k = 0; k < mediant::kSingles; ++k) {
        moves[k] = scale * p.book[k] - row.decoded[j];
        costs[k] = moves[k] * (r + along[j] * moves[k]);
    }
    const int best = mediant::least(costs, mediant::kSingles);
    if (!(costs[best] < 0)) return;
    row.change(p, j, best, scale * p.book[best], moves[best]);
}

MEDIANT_INLINE void sweep(const Problem &p, float *decoded, float *gradient, int64_t first, int64_t count) {
    const int64_t n = p.columns;
    mediant::Changes changes[mediant::kRows];
    for (int64_t begin = 0; begin < n; begin += mediant::kStrip) {
        const int64_t end = std::min(n, begin + mediant::kStrip);
        for (int64_t j = begin; j < end; j += j < p.paired ? 2 : 1)
            for (int64_t r = 0; r < count; ++r) {
                const float scale = p.scales[(first + r) * p.groups + j / p.group];
                const Row row{decoded + r * n, gradient + r * n, p.codes + (first + r) * n, changes[r], begin, end};
                if (j < p.paired) move_pair(p, scale, row, j);
                else move_single(p, scale, row, j);
            }
        mediant::add_changes(gradient, p.metric, changes, n, count, begin, end);
    }
}

MEDIANT_CLONES void descend(const Problem &p, float *decoded, float *gradient, int64_t first, int64_t count) {
    const int64_t n = p.columns;
    std::fill_n(gradient, count * n, 0.0f);
    for (int64_t r = 0; r < count; ++r)
        for (int64_t j = 0; j < n; ++j)
            decoded[r * n + j] = p.scales[(first + r) * p.groups + j / p.group] * p.book[p.codes[(first + r) * n + j]];
    mediant::add_differences(gradient, p.metric, decoded, p.w + first * n, n, count);
    for (int64_t s = 0; s < p.sweeps; ++s) sweep(p, decoded, gradient, first, count);
}

using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Codes = nb::ndarray<uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void pair_descent(Matrix w, Matrix metric, Matrix scales, Matrix book, int64_t group, int64_t paired, int64_t sweeps,
                  Codes codes, int threads) {
    const int64_t rows = static_cast<int64_t>(w.shape(0)), columns = static_cast<int64_t>(w.shape(1));
    const Problem p{w.data(), metric.data(), scales.data(), book.data(), columns, group,
                    static_cast<int64_t>(scales.shape(1)), paired, sweeps, codes.data()};
    nb::gil_scoped_release release;
    const auto scratch = [&] { return std::vector<float>(2 * mediant::kRows * columns); };
    mediant::parallel_blocks(rows, mediant::kRows, threads, scratch, [&](auto &room, int64_t first, int64_t count) {
        descend(p, room.data(), room.data() + mediant::kRows * columns, first, count);
    });
}

}  // namespace

MEDIANT_KERNEL(pair_descent) {
    m.def("pair_descent", &pair_descent, nb::arg("w"), nb::arg("metric"), nb::arg("scales"), nb::arg("book"),
          nb::arg("group"), nb::arg("paired"), nb::arg("sweeps"), nb::arg("codes").noconvert(), nb::arg("threads"));
}
