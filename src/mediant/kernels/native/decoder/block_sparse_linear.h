// A matrix of which only some blocks are not zero. What a row of blocks keeps lies together, as a dense matrix of fewer
// columns, and is multiplied as one; the inputs that belong to it are gathered first, once for all of its rows.
#pragma once

#include "linear.h"

namespace mediant::decoder {

// values: [rows][kept], of which rows block * height to before (block + 1) * height have their columns, `width`
// neighbours at a time, at starts[block][kept / width].
struct BlockSparse {
    const float *values;
    const int32_t *starts;
    int64_t rows, columns, kept, height, width;

    // y[t * stride + r] for the rows of the blocks from begin to end; x: [tokens][columns].
    void multiply(const float *x, int64_t tokens, float *y, int64_t stride, int64_t begin, int64_t end) const {
        constexpr int64_t kTokens = 48;  // whose gathered inputs stay in the second cache
        const int64_t count = kept / width;
        std::vector<float> gathered(std::min(tokens, kTokens) * kept);
        for (int64_t first = 0; first < tokens; first += kTokens) {
            const int64_t some = std::min(kTokens, tokens - first);
            for (int64_t block = begin; block < end; ++block) {
                for (int64_t t = 0; t < some; ++t)
                    for (int64_t i = 0; i < count; ++i)
                        std::copy_n(x + (first + t) * columns + starts[block * count + i], width,
                                    gathered.data() + t * kept + i * width);
                ops().dense(values + block * height * kept, Number::float32, kept, gathered.data(), kept, some,
                            y + first * stride + block * height, stride, 0, height);
            }
        }
    }
};

class BlockSparseLinear final : public Linear {
  public:
    explicit BlockSparseLinear(const BlockSparse &matrix) : matrix_(matrix) { rows = matrix.rows, columns = matrix.columns; }

    struct Inputs final : Prepared {
        const float *x = nullptr;
    };

    // Another form than a dense matrix, whose inputs are of another type.
    uint64_t form(bool) const override { return 2; }
    std::unique_ptr<Prepared> scratch() const override { return std::make_unique<Inputs>(); }
    void resize(Prepared &, int64_t, bool) const override {}
    void prepare(Prepared &prepared, const float *x, int64_t, int64_t, const uint8_t *) const override {
        // Every thread that shares the inputs writes the same address.
        __atomic_store_n(&static_cast<Inputs &>(prepared).x, x, __ATOMIC_RELAXED);
    }
    void multiply(const Prepared &prepared, int64_t tokens, float *y, int64_t stride, int thread,
                  int threads) const override {
        const Share blocks(matrix_.rows / matrix_.height, thread, threads);
        matrix_.multiply(static_cast<const Inputs &>(prepared).x, tokens, y, stride, blocks.begin, blocks.end);
    }
    Share share(int thread, int threads) const override {
        Share mine(matrix_.rows / matrix_.height, thread, threads);
        mine.begin *= matrix_.height, mine.end *= matrix_.height;
        return mine;
    }
    void row(int64_t index, float *out) const override {
        const int64_t count = matrix_.kept / matrix_.width, block = index / matrix_.height;
        std::fill_n(out, columns, 0.0f);
        for (int64_t i = 0; i < count; ++i)
            std::copy_n(matrix_.values + index * matrix_.kept + i * matrix_.width, matrix_.width,
                        out + matrix_.starts[block * count + i]);
    }
    int64_t bytes() const override {
        return 4 * (rows * matrix_.kept + matrix_.rows / matrix_.height * (matrix_.kept / matrix_.width));
    }

  private:
    BlockSparse matrix_;
};

}  // namespace mediant::decoder
