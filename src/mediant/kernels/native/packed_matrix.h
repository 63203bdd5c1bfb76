// A matrix in the kernel layout of checkpoint/FORMAT.md (storage `tiles` and `nested`), used where it is mapped, and
// the activations that multiply it. docs/theory/kernels.md explains the layout; mediant.kernels.packed_matrix is the
// reference. What instruction sets see is plain data: nothing here that they could instantiate with their own flags.
#pragma once

#include <cstdint>

namespace mediant {

constexpr int kPanel = 8;    // rows in lanes
constexpr int kBlock = 32;   // columns that share an activation scale, and the least group
constexpr int kDigits = 5;   // regions of a run at most
constexpr int kLayouts = 13; // lists of digit widths, see kWidths
constexpr int kTwoBits = 1;  // the one of a single digit of 2 bits

// Widths of the digits of a code, most significant first; the bits of a code are their sum. Prefixes of the nested
// lists are lists themselves.
constexpr int kWidths[kLayouts][kDigits] = {
    {1}, {2}, {2, 1}, {4}, {4, 1}, {4, 2}, {4, 2, 1}, {4, 4},
    {2, 1, 1}, {2, 1, 1, 1}, {2, 1, 1, 2}, {2, 1, 1, 2, 1}, {2, 1, 1, 4},
};

// Rows of one bit width. The level of code c is unit * (levels[c] - zero); from 6 bits on levels[c] is c. Codes of 2
// bits are in pairs, of columns 4 apart: with p = lower code + 4 * upper code, the lower has levels[p], the upper
// levels[16 + p].
struct PackedRun {
    int64_t first_row, rows, first_panel, panels;
    int bits, layout;
    const uint8_t *digits[kDigits];
    uint8_t levels[32];
    float zero, unit;
};

struct PackedMatrix {
    int64_t rows, columns, blocks, panels;
    const PackedRun *runs;
    int64_t run_count;
    const uint16_t *row_scales;  // bfloat16 [rows]
    const uint8_t *scale_codes;  // [panels][groups][scale_bits bytes], one readable byte behind
    int64_t groups, blocks_per_group;
    int scale_bits;
    float factors[256];          // of each scale code, relative to the row scale
    bool rotated;
    uint64_t seed;
    const float *ranges;         // [blocks] for its activations (ActivationView), null: each block's own
    uint64_t ranges_key;         // equal where ranges are equal, 0 without
};

// Vectors as the kernels take them, for `count` of them: [blocks][count][32] and [blocks][count]. The value of a number
// is scale * high, or scale * (128 high + low) if precise; sums holds scale times the sum of a block's numbers.
// `ranges` has the magnitude that the largest number of each block stands for, what is beyond being clipped; null: its
// largest.
struct ActivationView {
    int64_t columns, blocks, count;
    bool precise;
    int8_t *high, *low;
    float *scales, *sums;
    const float *ranges;
};

// One instruction set. A file tiles_NAME.cpp makes one of these known (tiles.h); the first by rank that the processor
// has is chosen when the module loads.
struct TileKernels {
    const char *name;
    int rank;
    bool (*available)();
    // Rotates (signs: +1 or -1 by column, null for none), quantizes vector `index` of the view; scratch: 2 * columns.
    void (*prepare)(const float *x, const float *signs, float *scratch, int64_t index, ActivationView out);
    // The same transform alone: x becomes x Q, in place.
    void (*rotate)(float *x, const float *signs, float *scratch, int64_t columns, bool back);
    // y[n * stride + row] of all rows in the panels from begin to before end.
    void (*multiply)(const PackedMatrix &matrix, const ActivationView &x, float *y, int64_t stride, int64_t begin,
                     int64_t end);
};

// The chosen instruction set; `force` with its name, null if the processor lacks it or there is none such.
const TileKernels &tile_kernels();
const TileKernels *force_tile_kernels(const char *name);

// Buffers for prepared vectors that are used again and again; any matrix with the same columns and rotation can be
// multiplied by them.
class Activations {
public:
    Activations() = default;
    Activations(const Activations &) = delete;
    Activations &operator=(const Activations &) = delete;
    ~Activations();
    // Room for `count` vectors; grows but never shrinks.
    void resize(int64_t columns, int64_t count, bool rotated, uint64_t seed, bool precise,
                const float *ranges = nullptr);
    // Prepares vectors [begin, end) of x, `stride` numbers apart; different ones may be done by different threads.
    // Those marked in `own`, null for none, are not held to the fixed ranges.
    void fill(const float *x, int64_t stride, int64_t begin, int64_t end, const uint8_t *own = nullptr);
    const ActivationView &view() const { return view_; }

private:
    ActivationView view_{};
    void *storage_ = nullptr;
    float *signs_ = nullptr;
    int64_t capacity_ = 0, signed_columns_ = -1;
    uint64_t seed_ = 0;
    bool rotated_ = false;
};

// `resize` and `fill` in one.
void prepare(const float *x, int64_t count, int64_t stride, int64_t columns, bool rotated, uint64_t seed, bool precise,
             Activations &out);

// y[n * stride + row] for all vectors n and all rows in the panels from begin to before end, overwritten. Any range is
// right; a thread's share is [panels * t / threads, panels * (t + 1) / threads). Thread-safe; allocates nothing.
inline void multiply(const PackedMatrix &matrix, const Activations &x, float *y, int64_t stride, int64_t begin,
                     int64_t end) {
    tile_kernels().multiply(matrix, x.view(), y, stride, begin, end);
}

// One row in the original basis, `columns` numbers: an embedding's look-up.
void decode_row(const PackedMatrix &matrix, int64_t row, float *out);

// +1 or -1 for every column (mediant.kernels.rotation.signs).
void rotation_signs(int64_t columns, uint64_t seed, float *out);

}  // namespace mediant
