// What the threads of one pass share: its tokens and their places, the vectors between products, and the barrier.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "network.h"

namespace mediant::decoder {

constexpr int64_t kFew = 4;  // tokens up to which every thread works on its own copy

// Inputs of products for one matrix after another; those of the same form share them.
struct Inputs {
    std::vector<std::pair<uint64_t, std::unique_ptr<Prepared>>> kept;  // by form and columns
    Prepared &of(const Linear &linear, bool precise) {
        const uint64_t key = linear.form(precise) * 1000003u + static_cast<uint64_t>(linear.columns);
        for (auto &entry : kept)
            if (entry.first == key) return *entry.second;
        kept.emplace_back(key, linear.scratch());
        return *kept.back().second;
    }
};

// The tokens of all spans in one row, and room for what becomes of them.
struct Pass {
    Network &net;
    const std::vector<Span> &spans;
    const Logits wanted;
    float *const logits;
    const Ops &op = ops();
    const int threads;
    int64_t tokens = 0;
    bool few;
    struct Place {
        const Span *span;
        int64_t position;
        int32_t token;
    };
    std::vector<Place> places;
    std::vector<int64_t> chosen;  // tokens whose logits are wanted
    std::vector<uint8_t> firsts, chosen_firsts;  // of all tokens and of those: which are a sequence's first
    std::vector<Vector> cosines, sines;
    Vector queries, keys, values, mixed, product, gates, ups, shared_x, shared_h, small, wide;
    Inputs shared_inputs;
    int64_t most_positions = 0;

    Pass(Network &net, const std::vector<Span> &spans, Logits wanted, float *logits)
        : net(net), spans(spans), wanted(wanted), logits(logits), threads(net.pool->threads()) {
        for (const Span &span : spans) {
            span.cache->reserve(span.count);
            for (int64_t i = 0; i < span.count; ++i)
                places.push_back({&span, span.cache->length() + i, span.tokens[i]});
            most_positions = std::max(most_positions, span.cache->length() + span.count);
            const int64_t end = static_cast<int64_t>(places.size());
            for (int64_t i = wanted == Logits::all ? end - span.count : end - 1; i < end && wanted != Logits::none; ++i)
                chosen.push_back(i);
        }
        for (const Place &place : places) firsts.push_back(place.position < kFirsts);
        for (int64_t t : chosen) chosen_firsts.push_back(firsts[t]);
        tokens = static_cast<int64_t>(places.size());
        few = tokens <= kFew;
        const Shape &s = net.shape;
        queries.resize(tokens * s.heads * s.head_dim), mixed.resize(tokens * s.heads * s.head_dim);
        keys.resize(tokens * s.kv_heads * s.head_dim), values.resize(tokens * s.kv_heads * s.head_dim);
        product.resize(tokens * std::max(s.hidden, s.embedding)), gates.resize(tokens * s.inner), ups.resize(tokens * s.inner);
        if (!few) {
            shared_x.resize(tokens * s.hidden), shared_h.resize(tokens * std::max(s.hidden, s.embedding));
            wide.resize(tokens * s.inner);
        }
        angles();
    }

    void angles() {
        for (const Rope &rope : net.ropes) {
            const int64_t half = static_cast<int64_t>(rope.frequencies.size());
            Vector cosine(tokens * half), sine(tokens * half);
            for (int64_t t = 0; t < tokens; ++t)
                for (int64_t i = 0; i < half; ++i) {
                    const double angle = static_cast<float>(places[t].position) * rope.frequencies[i];
                    cosine[t * half + i] = static_cast<float>(std::cos(angle)) * rope.scale;
                    sine[t * half + i] = static_cast<float>(std::sin(angle)) * rope.scale;
                }
            cosines.push_back(std::move(cosine)), sines.push_back(std::move(sine));
        }
    }

    void barrier() { net.pool->barrier(); }
};

}  // namespace mediant::decoder
