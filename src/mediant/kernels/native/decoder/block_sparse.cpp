// Native twin of mediant.kernels.block_sparse_matrix, which states the contract.
#include "block_sparse_linear.h"

#include "../registry.h"

namespace {

using Floats = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Starts = nb::ndarray<const int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Outputs = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// The caller has checked the shapes and that all blocks lie within the columns.
void block_sparse_product(Floats values, Starts starts, int64_t width, Floats x, Outputs y, int threads) {
    const auto rows = static_cast<int64_t>(values.shape(0)), kept = static_cast<int64_t>(values.shape(1));
    const auto blocks = static_cast<int64_t>(starts.shape(0)), tokens = static_cast<int64_t>(x.shape(0));
    const mediant::decoder::BlockSparse matrix{values.data(), starts.data(), rows, static_cast<int64_t>(x.shape(1)), kept,
                                               rows / blocks, width};
    const float *inputs = x.data();
    float *outputs = y.data();
    nb::gil_scoped_release release;
    mediant::parallel_for(blocks, threads, [&](int64_t begin, int64_t end) {
        matrix.multiply(inputs, tokens, outputs, rows, begin, end);
    });
}

}  // namespace

MEDIANT_KERNEL(block_sparse) {
    m.def("block_sparse_product", &block_sparse_product, nb::arg("values"), nb::arg("starts"), nb::arg("width"),
          nb::arg("x"), nb::arg("y").noconvert(), nb::arg("threads"));
}
