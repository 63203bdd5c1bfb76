// Native twin of mediant.kernels.nearest_code, which states the contract: the same divisions and comparisons in double.
#include <limits>

#include "registry.h"

namespace {

using Groups = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using PerGroup = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Middles = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Codes = nb::ndarray<uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// Middles between levels, filled with infinity to one less than a power of two, so that every search takes the same
// steps and needs no branch.
struct Table {
    std::vector<double> middles;
    size_t half = 0;  // where the search begins

    Table(const double *given, size_t count) : middles(given, given + count) {
        size_t size = 1;
        while (size < count + 1) size *= 2;
        middles.resize(size - 1, std::numeric_limits<double>::infinity());
        half = size / 2;
    }

    // The number of middles below x: a tie goes to the lower level.
    uint8_t code(double x) const {
        size_t below = 0;
        for (size_t step = half; step > 0; step /= 2) below += middles[below + step - 1] < x ? step : 0;
        return static_cast<uint8_t>(below);
    }
};

void nearest_code(Groups groups, PerGroup scale, PerGroup zero, Middles middles, Codes codes, int threads) {
    const Table table(middles.data(), middles.size());
    const int64_t count = static_cast<int64_t>(groups.shape(0)), size = static_cast<int64_t>(groups.shape(1));
    const float *w = groups.data(), *scales = scale.data(), *zeros = zero.data();
    uint8_t *out = codes.data();
    nb::gil_scoped_release release;
    mediant::parallel_for(count, threads, [&](int64_t begin, int64_t end) {
        for (int64_t g = begin; g < end; ++g) {
            const double s = scales[g], z = zeros[g];
            for (int64_t i = g * size; i < (g + 1) * size; ++i) out[i] = table.code(s == 0 ? z : w[i] / s + z);
        }
    });
}

}  // namespace

MEDIANT_KERNEL(nearest_code) {
    m.def("nearest_code", &nearest_code, nb::arg("groups"), nb::arg("scale"), nb::arg("zero"), nb::arg("middles"),
          nb::arg("codes").noconvert(), nb::arg("threads"));
}
