// One pass. All threads run all of it, and meet at barriers. A matrix product and the attention are cut between them.
// What is done token by token between products (norms, activations, preparation) is cut by tokens where there are many;
// where there are few, every thread does all of it on its own copy, which costs less than one barrier more.
#include "pass.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace mediant::decoder {

namespace {

// One thread's part of a pass.
struct Worker {
    Pass &p;
    const int thread;
    const Shape &s;
    const Ops &op;
    Vector own_x, own_h, own_wide, scratch;
    Inputs own_inputs;
    float *x, *h, *wide;
    const Share mine;  // tokens

    Worker(Pass &p, int thread)
        : p(p), thread(thread), s(p.net.shape), op(p.op), mine(p.few ? Share(p.tokens, 0, 1) : Share(p.tokens, thread, p.threads)) {
        if (p.few) {
            own_x.resize(p.tokens * s.hidden), own_h.resize(p.tokens * std::max(s.hidden, s.embedding));
            own_wide.resize(p.tokens * s.inner);
        }
        x = p.few ? own_x.data() : p.shared_x.data();
        h = p.few ? own_h.data() : p.shared_h.data();
        wide = p.few ? own_wide.data() : p.wide.data();
        scratch.resize(attend_scratch(p.most_positions, s.head_dim));
    }

    // After work that was cut by tokens.
    void together() {
        if (!p.few) p.barrier();
    }

    void normalize(const Norm &norm, const float *from, int64_t count, float *to) const {
        if (s.layer_norm) op.layer_norm(from, norm.weight.data(), norm.bias.empty() ? nullptr : norm.bias.data(), s.epsilon, count, to);
        else op.rms_norm(from, norm.weight.data(), s.epsilon, count, to);
    }

    // Prepares the inputs of the matrices, [tokens][columns] in `from`. In shared mode one thread makes room first.
    void prepare(std::initializer_list<const Slot *> slots, const float *from, const std::vector<uint8_t> &firsts, bool alone) {
        const int64_t tokens = static_cast<int64_t>(firsts.size());
        const Share share = alone ? Share(tokens, 0, 1) : Share(tokens, thread, p.threads);
        Inputs &inputs = alone ? own_inputs : p.shared_inputs;
        if (!alone) {
            if (thread == 0)
                for (const Slot *slot : slots) (**slot).resize(inputs.of(**slot, s.precise), tokens, s.precise);
            p.barrier();
        }
        const Prepared *done[4] = {nullptr, nullptr, nullptr, nullptr};
        int count = 0;
        for (const Slot *slot : slots) {
            Prepared &prepared = inputs.of(**slot, s.precise);
            if (std::find(done, done + count, &prepared) != done + count) continue;
            if (alone) (**slot).resize(prepared, tokens, s.precise);
            (**slot).prepare(prepared, from, share.begin, share.end, firsts.data());
            done[count++] = &prepared;
        }
        if (!alone) p.barrier();
    }

    void multiply(const Slot &slot, int64_t tokens, float *to, bool alone) {
        Inputs &inputs = alone ? own_inputs : p.shared_inputs;
        const int64_t rows = slot->rows;
        slot->multiply(inputs.of(*slot, s.precise), tokens, to, rows, thread, p.threads);
        if (slot.bias.empty()) return;
        const Share share = slot->share(thread, p.threads);
        for (int64_t t = 0; t < tokens; ++t)
            op.add(to + t * rows + share.begin, slot.bias.data() + share.begin, share.end - share.begin);
    }

    void embed() {
        for (int64_t t = mine.begin; t < mine.end; ++t) {
            float *row = p.net.project_in ? h + t * s.embedding : x + t * s.hidden;
            p.net.embedding->row(p.places[t].token, row);
            if (s.embedding_scale != 1)
                for (int64_t i = 0; i < s.embedding; ++i) row[i] *= s.embedding_scale;
        }
        together();
        if (p.net.project_in) {
            prepare({&p.net.project_in}, h, p.firsts, p.few);
            multiply(p.net.project_in, p.tokens, p.product.data(), p.few);
            p.barrier();
            for (int64_t t = mine.begin; t < mine.end; ++t)
                std::copy_n(p.product.data() + t * s.hidden, s.hidden, x + t * s.hidden);
        }
        if (!p.net.positions) return;
        Vector row(static_cast<size_t>(s.hidden));
        for (int64_t t = mine.begin; t < mine.end; ++t) {
            p.net.positions->row(p.places[t].position + p.net.position_offset, row.data());
            op.add(x + t * s.hidden, row.data(), s.hidden);
        }
    }

    // x += norm(product), and where norms come behind, x = norm(x).
    void take_product(const Norm &post, const Norm &behind) {
        for (int64_t t = mine.begin; t < mine.end; ++t) {
            float *from = p.product.data() + t * s.hidden, *row = x + t * s.hidden;
            if (post) {
                normalize(post, from, s.hidden, h + t * s.hidden);
                from = h + t * s.hidden;
            }
            op.add(row, from, s.hidden);
            if (!s.norm_first) normalize(behind, row, s.hidden, row);
        }
    }

    const float *normed(const Norm &norm) {
        if (!s.norm_first || !norm) return x;
        for (int64_t t = mine.begin; t < mine.end; ++t) normalize(norm, x + t * s.hidden, s.hidden, h + t * s.hidden);
        return h;
    }

    // Norm and rotation of one head's query or key.
    void turn(const Layer &layer, const Norm &norm, int64_t token, float *head) const {
        if (norm) normalize(norm, head, s.head_dim, head);
        if (layer.rope < 0) return;
        const int64_t half = static_cast<int64_t>(p.net.ropes[layer.rope].frequencies.size());
        op.rotate(head, p.cosines[layer.rope].data() + token * half, p.sines[layer.rope].data() + token * half, half);
    }

    // The heads of one layer's keys and values go to the caches; a head of a sequence is one thread's.
    void remember(const Layer &layer, int64_t index) {
        const int64_t spans = static_cast<int64_t>(p.spans.size());
        const Share share(spans * s.kv_heads, thread, p.threads);
        int64_t token = 0;
        for (int64_t n = 0; n < spans; ++n) {
            const Span &span = p.spans[n];
            for (int64_t head = 0; head < s.kv_heads; ++head) {
                if (n * s.kv_heads + head < share.begin || n * s.kv_heads + head >= share.end) continue;
                const KvHead store = span.cache->head(index, head);
                for (int64_t i = 0; i < span.count; ++i) {
                    const int64_t at = ((token + i) * s.kv_heads + head) * s.head_dim;
                    turn(layer, layer.key_norm, token + i, p.keys.data() + at);
                    op.store(store, span.cache->length() + i, p.keys.data() + at, p.values.data() + at);
                }
            }
            token += span.count;
        }
        const Share queries(p.tokens * s.heads, thread, p.threads);
        for (int64_t q = queries.begin; q < queries.end; ++q)
            turn(layer, layer.query_norm, q / s.heads, p.queries.data() + q * s.head_dim);
    }

    int64_t first_in_reach(const Layer &layer, int64_t position) const {
        return layer.window > 0 ? std::max<int64_t>(0, position - layer.window + 1) : 0;
    }

    // This thread's share of the queries, measured by the positions they attend to; those of one head together.
    void attend(const Layer &layer, int64_t index) {
        const int64_t together = s.heads / s.kv_heads;
        double total = 0, before = 0;
        for (const auto &place : p.places)
            total += static_cast<double>(place.position - first_in_reach(layer, place.position) + 1) * static_cast<double>(s.heads);
        Query block[kRows];
        int64_t token = 0;
        for (const Span &span : p.spans) {
            for (int64_t head = 0; head < s.kv_heads; ++head) {
                const KvHead store = span.cache->head(index, head);
                int count = 0;
                for (int64_t i = 0; i < span.count; ++i) {
                    const int64_t last = span.cache->length() + i, first = first_in_reach(layer, last);
                    for (int64_t g = 0; g < together; ++g) {
                        const double work = static_cast<double>(last - first + 1), middle = before + work / 2;
                        before += work;
                        if (static_cast<int>(middle * p.threads / total) != thread) continue;
                        const int64_t at = ((token + i) * s.heads + head * together + g) * s.head_dim;
                        block[count++] = {p.queries.data() + at, p.mixed.data() + at, first, last};
                        if (count < kRows) continue;
                        op.attend(store, block, count, s.attention_scale, s.attention_cap, scratch.data());
                        count = 0;
                    }
                }
                if (count > 0) op.attend(store, block, count, s.attention_scale, s.attention_cap, scratch.data());
            }
            token += span.count;
        }
    }

    void attention(const Layer &layer, int64_t index) {
        const float *from = normed(layer.attention_norm);
        together();
        prepare({&layer.query, &layer.key, &layer.value}, from, p.firsts, p.few);
        multiply(layer.query, p.tokens, p.queries.data(), p.few);
        multiply(layer.key, p.tokens, p.keys.data(), p.few);
        multiply(layer.value, p.tokens, p.values.data(), p.few);
        p.barrier();
        remember(layer, index);
        p.barrier();
        attend(layer, index);
        p.barrier();
        prepare({&layer.out}, p.mixed.data(), p.firsts, p.few);
        multiply(layer.out, p.tokens, p.product.data(), p.few);
        p.barrier();
        take_product(layer.attention_post_norm, layer.attention_norm);
    }

    void mlp(const Layer &layer) {
        const float *from = normed(layer.mlp_norm);
        together();
        if (layer.gate) {
            prepare({&layer.gate, &layer.up}, from, p.firsts, p.few);
            multiply(layer.gate, p.tokens, p.gates.data(), p.few);
        } else {
            prepare({&layer.up}, from, p.firsts, p.few);
        }
        multiply(layer.up, p.tokens, p.ups.data(), p.few);
        p.barrier();
        const float *gate = layer.gate ? p.gates.data() : p.ups.data(), *up = layer.gate ? p.ups.data() : nullptr;
        for (int64_t t = mine.begin; t < mine.end; ++t)
            op.activate(s.activation, gate + t * s.inner, up ? up + t * s.inner : nullptr, s.inner, wide + t * s.inner);
        together();
        prepare({&layer.down}, wide, p.firsts, p.few);
        multiply(layer.down, p.tokens, p.product.data(), p.few);
        p.barrier();
        take_product(layer.mlp_post_norm, layer.mlp_norm);
    }

    void output() {
        const int64_t count = static_cast<int64_t>(p.chosen.size());
        if (count == 0) return;
        const bool alone = count <= kFew;
        together();
        Vector rows(static_cast<size_t>(count * s.hidden));
        for (int64_t i = 0; i < count; ++i) {
            const float *from = x + p.chosen[i] * s.hidden;
            if (p.net.final_norm) normalize(p.net.final_norm, from, s.hidden, rows.data() + i * s.hidden);
            else std::copy_n(from, s.hidden, rows.data() + i * s.hidden);
        }
        const float *last = rows.data();
        if (p.net.project_out) {
            project(last, count, alone);
            last = p.product.data();
        }
        finish(last, count, alone);
    }

    void project(const float *from, int64_t count, bool alone) {
        prepare({&p.net.project_out}, from, p.chosen_firsts, alone);
        p.barrier();
        multiply(p.net.project_out, count, p.product.data(), alone);
        p.barrier();
    }

    void finish(const float *last, int64_t count, bool alone) {
        const Slot &head = p.net.head ? p.net.head : p.net.embedding;
        prepare({&head}, last, p.chosen_firsts, alone);
        multiply(head, count, p.logits, alone);
        if (s.logit_cap > 0) {
            const Share share = head->share(thread, p.threads);
            for (int64_t t = 0; t < count; ++t)
                op.soft_cap(p.logits + t * s.vocabulary + share.begin, share.end - share.begin, s.logit_cap);
        }
        p.barrier();  // before the inputs go
    }

    void run() {
        embed();
        for (int64_t l = 0; l < static_cast<int64_t>(p.net.layers.size()); ++l) {
            attention(p.net.layers[l], l);
            mlp(p.net.layers[l]);
        }
        output();
    }
};

}  // namespace

void Network::forward(const std::vector<Span> &spans, Logits wanted, float *logits) {
    Pass pass(*this, spans, wanted, logits);
    pool->run([&](int thread) { Worker(pass, thread).run(); });
    for (const Span &span : spans) span.cache->advance(span.count);
}

std::vector<Slot *> Network::slots() {
    std::vector<Slot *> all;
    for (Layer &l : layers)
        for (Slot *slot : {&l.query, &l.key, &l.value, &l.out, &l.gate, &l.up, &l.down})
            if (*slot) all.push_back(slot);
    for (Slot *slot : {&project_in, &project_out, &embedding, &head})
        if (*slot) all.push_back(slot);
    return all;
}

int64_t Network::weight_bytes() {
    int64_t total = 0;
    for (Slot *slot : slots())
        if (slot != &embedding || !head) total += (**slot).bytes();
    return total;
}

void Network::check() const {
    const auto fits = [](const Slot &slot, int64_t rows, int64_t columns, const char *name) {
        if (!slot) throw std::invalid_argument(std::string("the decoder lacks the matrix ") + name);
        for (const auto &view : slot.views)
            if (view->rows != rows || view->columns != columns)
                throw std::invalid_argument(std::string("the matrix ") + name + " has another shape than the decoder");
        if (!slot.bias.empty() && static_cast<int64_t>(slot.bias.size()) != rows)
            throw std::invalid_argument(std::string("the bias of ") + name + " has another length than its matrix");
    };
    const auto normal = [](const Norm &norm, int64_t count, const char *name) {
        const int64_t size = static_cast<int64_t>(norm.weight.size());
        if (size != 0 && size != count) throw std::invalid_argument(std::string("the norm ") + name + " has another length");
    };
    const Shape &s = shape;
    const int64_t queries = s.heads * s.head_dim, keys = s.kv_heads * s.head_dim;
    for (const Layer &l : layers) {
        fits(l.query, queries, s.hidden, "query"), fits(l.key, keys, s.hidden, "key");
        fits(l.value, keys, s.hidden, "value"), fits(l.out, s.hidden, queries, "out");
        if (l.gate) fits(l.gate, s.inner, s.hidden, "gate");
        fits(l.up, s.inner, s.hidden, "up"), fits(l.down, s.hidden, s.inner, "down");
        normal(l.attention_norm, s.hidden, "attention_norm"), normal(l.attention_post_norm, s.hidden, "attention_post_norm");
        normal(l.mlp_norm, s.hidden, "mlp_norm"), normal(l.mlp_post_norm, s.hidden, "mlp_post_norm");
        normal(l.query_norm, s.head_dim, "query_norm"), normal(l.key_norm, s.head_dim, "key_norm");
        if (l.rope >= static_cast<int>(ropes.size())) throw std::invalid_argument("a layer names a rotation that is not there");
        if (l.rope >= 0 && 2 * static_cast<int64_t>(ropes[l.rope].frequencies.size()) > s.head_dim)
            throw std::invalid_argument("a rotation turns more dimensions than a head has");
    }
    fits(embedding, s.vocabulary, s.embedding, "embedding");
    if (head) fits(head, s.vocabulary, s.embedding, "head");
    if (project_in) fits(project_in, s.hidden, s.embedding, "project_in");
    if (project_out) fits(project_out, s.embedding, s.hidden, "project_out");
    if (!project_in && s.embedding != s.hidden) throw std::invalid_argument("the embedding is not as wide as the decoder");
    normal(final_norm, s.hidden, "final_norm");
    if (positions) fits(positions, s.positions + position_offset, s.hidden, "positions");
    if (s.kv_heads < 1 || s.heads % s.kv_heads) throw std::invalid_argument("kv_heads must divide heads");
}

}  // namespace mediant::decoder
