// A matrix of plain numbers, used where it lies.
#pragma once

#include "linear.h"

namespace mediant::decoder {

class DenseLinear final : public Linear {
  public:
    DenseLinear(const void *weights, Number number, int64_t rows_, int64_t columns_) : weights_(weights), number_(number) {
        rows = rows_, columns = columns_;
    }

    struct Inputs final : Prepared {
        const float *x = nullptr;
    };

    uint64_t form(bool) const override { return 0; }
    std::unique_ptr<Prepared> scratch() const override { return std::make_unique<Inputs>(); }
    void resize(Prepared &, int64_t, bool) const override {}
    void prepare(Prepared &prepared, const float *x, int64_t, int64_t, const uint8_t *) const override {
        // Every thread that shares the inputs writes the same address.
        __atomic_store_n(&static_cast<Inputs &>(prepared).x, x, __ATOMIC_RELAXED);
    }
    void multiply(const Prepared &prepared, int64_t tokens, float *y, int64_t stride, int thread,
                  int threads) const override {
        const Share mine = share(thread, threads);
        const float *x = static_cast<const Inputs &>(prepared).x;
        ops().dense(weights_, number_, columns, x, columns, tokens, y, stride, mine.begin, mine.end);
    }
    Share share(int thread, int threads) const override { return Share(rows, thread, threads, 8); }
    void row(int64_t index, float *out) const override {
        const int64_t size = number_ == Number::float32 ? 4 : 2;
        ops().widen(static_cast<const uint8_t *>(weights_) + index * columns * size, number_, columns, out);
    }
    int64_t bytes() const override { return rows * columns * (number_ == Number::float32 ? 4 : 2); }

  private:
    const void *weights_;
    Number number_;
};

}  // namespace mediant::decoder
