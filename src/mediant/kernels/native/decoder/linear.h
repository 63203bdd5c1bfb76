// A matrix as the decoder uses it: products with the vectors of some tokens, cut between threads, and single rows.
// What a product needs of its inputs alone (their rotation, their rounding to whole numbers) is done once by `prepare`
// for all matrices of the same `form`.
#pragma once

#include <memory>
#include <vector>

#include "ops.h"
#include "thread_pool.h"

namespace mediant::decoder {

// Tokens at the beginning of a sequence that may be sinks of attention (mediant.runtime.static_ranges).
constexpr int64_t kFirsts = 4;

// The inputs of a product, prepared. One thread's own, or shared by all.
struct Prepared {
    virtual ~Prepared() = default;
};

class Linear {
  public:
    virtual ~Linear() = default;
    int64_t rows = 0, columns = 0;

    // Matrices with the same form can share prepared inputs.
    virtual uint64_t form(bool precise) const = 0;
    virtual std::unique_ptr<Prepared> scratch() const = 0;
    // Makes room for `tokens` inputs.
    virtual void resize(Prepared &prepared, int64_t tokens, bool precise) const = 0;
    // x: [tokens][columns]; only the tokens from begin to end are prepared. `firsts` [tokens]: which are at the beginning
    // of a sequence (kFirsts), and rounded by their own ranges even where ranges are fixed.
    virtual void prepare(Prepared &prepared, const float *x, int64_t begin, int64_t end, const uint8_t *firsts) const = 0;
    // y[t * stride + r] for the rows of this thread, of which `share` tells where they begin and end.
    virtual void multiply(const Prepared &prepared, int64_t tokens, float *y, int64_t stride, int thread,
                          int threads) const = 0;
    virtual Share share(int thread, int threads) const = 0;
    virtual void row(int64_t index, float *out) const = 0;
    virtual int64_t bytes() const = 0;
};

}  // namespace mediant::decoder
