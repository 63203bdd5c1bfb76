// Native twin of mediant.kernels.k_best, which states the contract. Rows are independent; the beams of a row share each
// row of the feedback matrix.
#include "nearest_plane.h"
#include "registry.h"

namespace {

struct Problem {
    const float *w, *feedback, *conditional, *factors;
    mediant::Grid grid;
    int64_t columns, group, groups, factor_count, beams;
    uint8_t *codes, *scale_codes;
    float *row_scales;
};

struct Choice {
    float cost, error;
    int parent, code;
};

// The beams of one row: what is left to round in each, what it has cost, and how it came about.
struct Beams {
    std::vector<float> now, next, costs, scales;
    std::vector<uint8_t> codes, parents, factors;
    std::vector<Choice> best;
    explicit Beams(const Problem &p)
        : now(p.beams * p.columns), next(p.beams * p.columns), costs(p.beams), scales(p.beams),
          codes(p.beams * p.columns), parents(p.beams * p.columns), factors(p.beams * p.groups), best(p.beams) {}
};

// Keeps the cheapest choices in order; of equals the first stays first.
MEDIANT_INLINE int64_t insert(std::vector<Choice> &best, int64_t kept, const Choice &choice) {
    const int64_t most = static_cast<int64_t>(best.size());
    if (kept == most && !(choice.cost < best[most - 1].cost)) return kept;
    int64_t at = kept < most ? kept++ : most - 1;
    for (; at > 0 && choice.cost < best[at - 1].cost; --at) best[at] = best[at - 1];
    best[at] = choice;
    return kept;
}

MEDIANT_INLINE int64_t choose(const Problem &p, Beams &b, int64_t alive, int64_t j) {
    int64_t kept = 0;
    for (int64_t k = 0; k < alive; ++k) {
        const float scale = b.scales[k], w = b.now[k * p.columns + j];
        const int nearest = mediant::code_of(p.grid, w * mediant::inverse(scale));
        for (int64_t o = 0; o < 2 * p.beams - 1; ++o) {
            const int64_t code = nearest + (o % 2 ? -(o + 1) / 2 : o / 2);
            if (code < 0 || code >= p.grid.count) continue;
            const float error = w - scale * p.grid.levels[code];
            kept = insert(b.best, kept, Choice{b.costs[k] + p.conditional[j] * (error * error), error,
                                               static_cast<int>(k), static_cast<int>(code)});
        }
    }
    return kept;
}

// now[parent] with the chosen error carried on, as next.
MEDIANT_INLINE void advance(const Problem &p, Beams &b, int64_t kept, int64_t j) {
    const int64_t n = p.columns;
    const float *__restrict v = p.feedback + j * n;
    std::vector<float> scales(b.scales);
    for (int64_t k = 0; k < kept; ++k) {
        const Choice &c = b.best[k];
        b.costs[k] = c.cost;
        b.scales[k] = scales[c.parent];
        b.codes[j * p.beams + k] = static_cast<uint8_t>(c.code);
        b.parents[j * p.beams + k] = static_cast<uint8_t>(c.parent);
        const float *__restrict from = b.now.data() + c.parent * n;
        float *__restrict to = b.next.data() + k * n;
        for (int64_t i = j + 1; i < n; ++i) to[i] = from[i] - c.error * v[i];
    }
    std::swap(b.now, b.next);
}

MEDIANT_INLINE void trace(const Problem &p, const Beams &b, int64_t row) {
    int64_t k = 0;
    for (int64_t j = p.columns - 1; j >= 0; --j) {
        p.codes[row * p.columns + j] = b.codes[j * p.beams + k];
        k = b.parents[j * p.beams + k];
        if (j % p.group == 0) p.scale_codes[row * p.groups + j / p.group] = b.factors[j / p.group * p.beams + k];
    }
}

MEDIANT_CLONES void round_row(const Problem &p, Beams &b, int64_t row) {
    const int64_t n = p.columns;
    std::copy_n(p.w + row * n, n, b.now.begin());
    const float row_scale = mediant::row_scale(p.grid, b.now.data(), p.conditional, n, p.group);
    p.row_scales[row] = row_scale;
    b.costs[0] = 0;
    int64_t alive = 1;
    for (int64_t g = 0; g < p.groups; ++g) {
        const int64_t begin = g * p.group, end = std::min(begin + p.group, n);
        for (int64_t k = 0; k < alive; ++k) {
            const int f = mediant::best_factor(p.grid, b.now.data() + k * n + begin, p.conditional + begin, end - begin,
                                               row_scale, p.factors, p.factor_count);
            b.factors[g * p.beams + k] = static_cast<uint8_t>(f);
            b.scales[k] = row_scale * p.factors[f];
        }
        for (int64_t j = begin; j < end; ++j) {
            alive = choose(p, b, alive, j);
            advance(p, b, alive, j);
        }
    }
    trace(p, b, row);
}

using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Codes = nb::ndarray<uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void k_best(Matrix w, Matrix feedback, Vector conditional, Vector levels, Vector middles, bool affine, int64_t group,
            Vector factors, int64_t beams, Codes codes, Out row_scales, Codes scale_codes, int threads) {
    const int64_t rows = static_cast<int64_t>(w.shape(0)), columns = static_cast<int64_t>(w.shape(1));
    const mediant::Grid grid{levels.data(), middles.data(), static_cast<int64_t>(levels.size()), affine};
    const Problem p{w.data(), feedback.data(), conditional.data(), factors.data(), grid, columns, group,
                    (columns + group - 1) / group, static_cast<int64_t>(factors.size()), beams, codes.data(),
                    scale_codes.data(), row_scales.data()};
    nb::gil_scoped_release release;
    mediant::parallel_for(rows, threads, [&](int64_t begin, int64_t end) {
        Beams b(p);
        for (int64_t row = begin; row < end; ++row) round_row(p, b, row);
    });
}

}  // namespace

MEDIANT_KERNEL(k_best) {
    m.def("k_best", &k_best, nb::arg("w"), nb::arg("feedback"), nb::arg("conditional"), nb::arg("levels"),
          nb::arg("middles"), nb::arg("affine"), nb::arg("group"), nb::arg("factors"), nb::arg("beams"),
          nb::arg("codes").noconvert(), nb::arg("row_scales").noconvert(), nb::arg("scale_codes").noconvert(),
          nb::arg("threads"));
}
