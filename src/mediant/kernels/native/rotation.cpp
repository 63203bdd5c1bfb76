// Native twin of the Hadamard transform in mediant.kernels.rotation, which states the contract: the same additions in
// the same order, so the same bits.
#include <cmath>

#include "registry.h"

namespace {

template <typename Real>
using Rows = nb::ndarray<const Real, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <typename Real>
using Result = nb::ndarray<Real, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// One round of sums and differences of numbers that are `width` apart.
template <typename Real>
inline void round_of(Real *x, int64_t size, int64_t width) {
    for (int64_t begin = 0; begin < size; begin += 2 * width) {
        Real *low = x + begin, *high = low + width;
        for (int64_t i = 0; i < width; ++i) {
            const Real a = low[i], b = high[i];
            low[i] = a + b;
            high[i] = a - b;
        }
    }
}

template <typename Real>
void transform(Real *x, int64_t size) {
    // Widths that the compiler knows, where a loop over so few would cost more than the sums.
    if (size > 1) round_of(x, size, 1);
    if (size > 2) round_of(x, size, 2);
    if (size > 4) round_of(x, size, 4);
    for (int64_t width = 8; width < size; width *= 2) round_of(x, size, width);
    const Real unit = static_cast<Real>(1 / std::sqrt(static_cast<double>(size)));
    for (int64_t i = 0; i < size; ++i) x[i] *= unit;
}

template <typename Real>
void hadamard(Rows<Real> given, Result<Real> result, int threads) {
    const int64_t count = static_cast<int64_t>(given.shape(0)), size = static_cast<int64_t>(given.shape(1));
    const Real *from = given.data();
    Real *to = result.data();
    nb::gil_scoped_release release;
    mediant::parallel_for(count, threads, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
            std::copy(from + r * size, from + (r + 1) * size, to + r * size);
            transform(to + r * size, size);
        }
    });
}

}  // namespace

MEDIANT_KERNEL(rotation) {
    m.def("hadamard", &hadamard<float>, nb::arg("x"), nb::arg("result").noconvert(), nb::arg("threads"));
    m.def("hadamard", &hadamard<double>, nb::arg("x"), nb::arg("result").noconvert(), nb::arg("threads"));
}
