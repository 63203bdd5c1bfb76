// Native twin of mediant.kernels.factor_product, which states the contract. Each sum is taken in the order of the
// components, so vectors go along columns; products of floats are exact in a double, so contraction would change nothing.
#include "registry.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define MEDIANT_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define MEDIANT_CLONES
#endif

namespace {

using Factor = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Weights = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// Columns whose sums are kept at a time.
constexpr int64_t WIDTH = 32;

MEDIANT_CLONES
void rows_of_product(const float *left, const double *right, float *out, int64_t begin, int64_t end, int64_t rank,
                     int64_t columns) {
    for (int64_t c = 0; c < columns; c += WIDTH) {
        const int64_t width = std::min(WIDTH, columns - c);
        for (int64_t r = begin; r < end; ++r) {
            double sum[WIDTH] = {};
            float *row = out + r * columns + c;
            for (int64_t i = 0; i < width; ++i) sum[i] = row[i];
            if (width == WIDTH) {
                for (int64_t k = 0; k < rank; ++k) {
                    const double a = left[r * rank + k];
                    const double *b = right + k * columns + c;
                    for (int64_t i = 0; i < WIDTH; ++i) sum[i] += a * b[i];
                }
            } else {
                for (int64_t k = 0; k < rank; ++k)
                    for (int64_t i = 0; i < width; ++i)
                        sum[i] += static_cast<double>(left[r * rank + k]) * right[k * columns + c + i];
            }
            for (int64_t i = 0; i < width; ++i) row[i] = static_cast<float>(sum[i]);
        }
    }
}

// `weights` holds what is added to. The caller has checked the shapes.
void factor_product(Factor left, Factor right, Weights weights, int threads) {
    const int64_t rows = static_cast<int64_t>(left.shape(0)), rank = static_cast<int64_t>(left.shape(1));
    const int64_t columns = static_cast<int64_t>(right.shape(1));
    const float *a = left.data();
    const std::vector<double> b(right.data(), right.data() + rank * columns);
    const double *wide = b.data();
    float *out = weights.data();
    nb::gil_scoped_release release;
    mediant::parallel_for(rows, threads, [=](int64_t begin, int64_t end) {
        rows_of_product(a, wide, out, begin, end, rank, columns);
    });
}

}  // namespace

MEDIANT_KERNEL(factor_product) {
    m.def("factor_product", &factor_product, nb::arg("left"), nb::arg("right"), nb::arg("weights").noconvert(),
          nb::arg("threads"));
}
