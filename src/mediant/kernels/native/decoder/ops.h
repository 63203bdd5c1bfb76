// The float32 arithmetic of a decoder beside its matrix products, one table of functions for each instruction set.
// ops_body.h has the source, which ops_<set>.cpp compiles; `ops()` is the table for this machine, chosen once. A file
// ops_<set>.cpp ends with MEDIANT_OPS and is known from then on, so that adding an instruction set touches no other.
//
// Every result is computed in an order that depends on nothing but its own operands: a token gives the same bits
// alone, in a chunk, in a batch, and for any number of threads.
#pragma once

#include <cstdint>

namespace mediant::decoder {

constexpr int64_t kBlock = 16;  // positions in a block of keys, and the padding of a head's dimension
constexpr int64_t kGroup = 32;  // numbers of a quantised key or value that share a step and a least value
constexpr int kRows = 6;        // queries that attend together

enum class Activation { silu, gelu_tanh, gelu, relu };
enum class Number { float32, float16, bfloat16 };

// The keys and values of one head in one layer. Position p lies in slot p % ring. Keys are stored block by block, each
// [dim][16 positions], so that 16 scores need no horizontal sum; values are [slot][padded dim]. At 8 and 4 bits a number
// is least + step * code, with step and least (float16) shared by a group of kGroup dimensions of a position.
struct KvHead {
    uint8_t *keys, *values;
    uint16_t *key_affine;    // [block][group][step, least][16]
    uint16_t *value_affine;  // [slot][group][step, least]
    int64_t dim, padded, groups, ring;
    int bits;  // 32, 16, 8 or 4
};

// One query: attends to the positions from `first` to `last`, and writes the mean of their values.
struct Query {
    const float *query;
    float *out;
    int64_t first, last;
};

struct Ops {
    const char *name;
    // y[t][r] = x[t] . w[r] for the rows from begin to end
    void (*dense)(const void *w, Number number, int64_t columns, const float *x, int64_t x_stride, int64_t tokens,
                  float *y, int64_t y_stride, int64_t begin, int64_t end);
    void (*widen)(const void *from, Number number, int64_t count, float *to);
    void (*rms_norm)(const float *x, const float *weight, float epsilon, int64_t count, float *out);
    void (*layer_norm)(const float *x, const float *weight, const float *bias, float epsilon, int64_t count, float *out);
    // out = act(gate) * up, or act(gate) where up is null
    void (*activate)(Activation activation, const float *gate, const float *up, int64_t count, float *out);
    void (*add)(float *x, const float *y, int64_t count);
    void (*soft_cap)(float *x, int64_t count, float cap);
    void (*rotate)(float *x, const float *cosine, const float *sine, int64_t half);
    void (*store)(const KvHead &head, int64_t position, const float *key, const float *value);
    // at most kRows queries of one head; scratch holds attend_scratch(...) floats
    void (*attend)(const KvHead &head, const Query *queries, int count, float scale, float cap, float *scratch);
    int64_t (*argmax)(const float *x, int64_t count);
    // out = exp((x - top) * factor), 0 where that is below exp(-87)
    void (*exponentials)(const float *x, int64_t count, float top, float factor, float *out);
};

inline int64_t attend_scratch(int64_t positions, int64_t dim) {
    return kRows * (positions + 3 * kBlock) + kRows * dim;
}

// The table that MEDIANT_KERNELS names, or else the one of the highest rank that this machine has.
const Ops &ops();

struct OpsRegistration {
    OpsRegistration(const Ops *ops, int rank, bool (*available)());
    const Ops *ops;
    int rank;
    bool (*available)();
    const OpsRegistration *next;
};

}  // namespace mediant::decoder

#define MEDIANT_OPS(set, rank, available) \
    static const ::mediant::decoder::OpsRegistration registered_##set{&::mediant::decoder::set::kOps, rank, available};
