// Native twin of mediant.kernels.dequantize, which states the contract. Built without contraction (CMakeLists.txt),
// so the difference and the product each round once, as there.
#include "registry.h"

namespace {

using Codes = nb::ndarray<const uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Groups = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Levels = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Weights = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// `zeros` is empty where there are none. The caller has checked shapes and codes.
void dequantize(Codes codes, Groups scales, Groups zeros, Levels levels, int64_t group, Weights weights, int threads) {
    const int64_t rows = static_cast<int64_t>(codes.shape(0)), columns = static_cast<int64_t>(codes.shape(1));
    const int64_t groups = static_cast<int64_t>(scales.shape(1));
    const uint8_t *code = codes.data();
    const float *scale = scales.data(), *level = levels.data(), *zero = zeros.size() ? zeros.data() : nullptr;
    float *out = weights.data();
    nb::gil_scoped_release release;
    mediant::parallel_for(rows, threads, [=](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
            for (int64_t g = 0; g < groups; ++g) {
                const float s = scale[r * groups + g], z = zero ? zero[r * groups + g] : 0.0f;
                const int64_t first = r * columns + g * group;
                const int64_t last = r * columns + std::min(columns, (g + 1) * group);
                for (int64_t i = first; i < last; ++i) out[i] = s * (level[code[i]] - z);
            }
        }
    });
}

}  // namespace

MEDIANT_KERNEL(dequantize) {
    m.def("dequantize", &dequantize, nb::arg("codes"), nb::arg("scales"), nb::arg("zeros"), nb::arg("levels"),
          nb::arg("group"), nb::arg("weights").noconvert(), nb::arg("threads"));
}
