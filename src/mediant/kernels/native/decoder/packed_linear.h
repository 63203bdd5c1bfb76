// A matrix in the kernel layout (../packed_matrix.h), multiplied as it is stored.
#pragma once

#include "../packed_matrix.h"
#include "linear.h"

namespace mediant::decoder {

class PackedLinear final : public Linear {
  public:
    explicit PackedLinear(const PackedMatrix &matrix) : matrix_(matrix) { rows = matrix.rows, columns = matrix.columns; }

    struct Inputs final : Prepared {
        Activations activations;
    };

    // Inputs depend on the rotation and on the bits and ranges of an activation alone.
    uint64_t form(bool precise) const override {
        return 1 + 2 * static_cast<uint64_t>(matrix_.rotated) + 4 * static_cast<uint64_t>(precise) +
               8 * ((matrix_.rotated ? matrix_.seed : 0) ^ matrix_.ranges_key);
    }
    std::unique_ptr<Prepared> scratch() const override { return std::make_unique<Inputs>(); }
    void resize(Prepared &prepared, int64_t tokens, bool precise) const override {
        static_cast<Inputs &>(prepared).activations.resize(columns, tokens, matrix_.rotated, matrix_.seed, precise,
                                                           matrix_.ranges);
    }
    void prepare(Prepared &prepared, const float *x, int64_t begin, int64_t end, const uint8_t *firsts) const override {
        static_cast<Inputs &>(prepared).activations.fill(x, columns, begin, end, firsts);
    }
    void multiply(const Prepared &prepared, int64_t, float *y, int64_t stride, int thread, int threads) const override {
        const Share panels(matrix_.panels, thread, threads);
        mediant::multiply(matrix_, static_cast<const Inputs &>(prepared).activations, y, stride, panels.begin, panels.end);
    }
    Share share(int thread, int threads) const override {
        Share rows_of(matrix_.panels, thread, threads);
        rows_of.begin = first_row(rows_of.begin), rows_of.end = first_row(rows_of.end);
        return rows_of;
    }
    void row(int64_t index, float *out) const override { decode_row(matrix_, index, out); }
    int64_t bytes() const override {
        int64_t total = 2 * rows + matrix_.panels * matrix_.groups * matrix_.scale_bits;
        for (int64_t i = 0; i < matrix_.run_count; ++i)
            total += matrix_.runs[i].panels * matrix_.blocks * 32 * matrix_.runs[i].bits;
        return total;
    }

  private:
    int64_t first_row(int64_t panel) const {
        for (int64_t i = 0; i < matrix_.run_count; ++i) {
            const PackedRun &run = matrix_.runs[i];
            if (panel < run.first_panel + run.panels)
                return run.first_row + std::min(run.rows, (panel - run.first_panel) * kPanel);
        }
        return rows;
    }

    const PackedMatrix &matrix_;
};

}  // namespace mediant::decoder
