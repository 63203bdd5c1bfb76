// A whole decoder: what it consists of, and one pass of some tokens of some sequences through it.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "kv_cache.h"
#include "linear.h"
#include "ops.h"
#include "thread_pool.h"

namespace mediant::decoder {

using Vector = std::vector<float>;

// One matrix at each precision it can be used at: views[0] is the whole, later ones leave out more and more of it.
struct Slot {
    std::vector<std::shared_ptr<Linear>> views;
    Vector bias;
    size_t view = 0;

    explicit operator bool() const { return !views.empty(); }
    const Linear &operator*() const { return *views[std::min(view, views.size() - 1)]; }
    const Linear *operator->() const { return &**this; }
};

struct Norm {
    Vector weight, bias;
    explicit operator bool() const { return !weight.empty(); }
};

struct Layer {
    Norm attention_norm, attention_post_norm, mlp_norm, mlp_post_norm, query_norm, key_norm;
    Slot query, key, value, out, gate, up, down;
    int64_t window = 0;  // positions in reach, its own among them; 0: all
    int rope = -1;       // which of the rotations; -1: none
};

struct Rope {
    Vector frequencies;  // of half the rotated dimensions, radians per position
    float scale = 1;     // of sines and cosines
};

struct Shape {
    int64_t hidden = 0, heads = 0, kv_heads = 0, head_dim = 0, inner = 0, vocabulary = 0, positions = 0, embedding = 0;
    bool layer_norm = false, norm_first = true, precise = true;
    float epsilon = 1e-6f, attention_scale = 1, attention_cap = 0, logit_cap = 0, embedding_scale = 1;
    Activation activation = Activation::silu;
};

// The next `count` tokens of a sequence.
struct Span {
    KvCache *cache;
    const int32_t *tokens;
    int64_t count;
};

enum class Logits { none, last, all };

class Network {
  public:
    Network(const Shape &shape, std::vector<Layer> layers, std::vector<Rope> ropes, int threads)
        : shape(shape), layers(std::move(layers)), ropes(std::move(ropes)), pool(std::make_unique<Pool>(threads)) {}

    // Reads the spans, adds them to their caches, and writes [rows][vocabulary] logits: of each span's last token, or
    // of all tokens in order.
    void forward(const std::vector<Span> &spans, Logits wanted, float *logits);
    void check() const;
    // The matrices, by layer and then as in the model; the embedding and the head last.
    std::vector<Slot *> slots();
    int64_t weight_bytes();

    Shape shape;
    std::vector<Layer> layers;
    std::vector<Rope> ropes;
    Slot embedding, head, project_in, project_out;
    Slot positions;
    int64_t position_offset = 0;
    Norm final_norm;
    std::unique_ptr<Pool> pool;
};

}  // namespace mediant::decoder
