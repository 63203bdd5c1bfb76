// The keys and values of one sequence, in all layers. A layer with a sliding window keeps a ring of positions; others
// keep all, and grow by doubling.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include "ops.h"

namespace mediant::decoder {

// Zeroed memory that is only taken from the system where it is touched.
struct Zeroed {
    std::unique_ptr<uint8_t, void (*)(void *)> data{nullptr, std::free};
    Zeroed() = default;
    explicit Zeroed(int64_t bytes) : data(static_cast<uint8_t *>(std::calloc(static_cast<size_t>(bytes) + 64, 1)), std::free) {
        if (!data) throw std::bad_alloc();
    }
    uint8_t *get() const { return data.get(); }
};

class KvCache {
  public:
    // windows: of each layer, 0 for none; chunk: the most positions that are added at once.
    KvCache(int64_t heads, int64_t dim, std::vector<int64_t> windows, int64_t chunk, int bits)
        : heads_(heads), dim_(dim), windows_(std::move(windows)), chunk_(chunk), bits_(bits), layers_(windows_.size()) {
        if (bits != 32 && bits != 16 && bits != 8 && bits != 4) throw std::invalid_argument("kv_bits takes 32, 16, 8 or 4");
    }

    KvCache(const KvCache &) = delete;
    KvCache &operator=(const KvCache &) = delete;

    int64_t length() const { return length_; }
    int64_t chunk() const { return chunk_; }
    void advance(int64_t count) { length_ += count; }

    // Forgets the positions from `length` on. A ring has forgotten those that more than a chunk of later ones overwrote.
    void truncate(int64_t length) {
        if (length < 0 || length > length_) throw std::invalid_argument("a cache can only become shorter");
        for (const auto &layer : layers_)
            if (length > 0 && highest_ > layer.ring && length + chunk_ < highest_)
                throw std::invalid_argument("a sliding window has forgotten the positions before that");
        length_ = length;
        if (length == 0) highest_ = 0;
    }

    // Makes room for `count` more positions.
    void reserve(int64_t count) {
        const int64_t wanted = length_ + count;
        highest_ = std::max(highest_, wanted);
        for (size_t l = 0; l < layers_.size(); ++l) {
            const int64_t whole = windows_[l] > 0 ? blocks(windows_[l] + 2 * chunk_) : INT64_MAX;
            if (layers_[l].ring >= std::min(whole, wanted)) continue;
            grow(layers_[l], std::min(whole, blocks(std::max(wanted, 2 * layers_[l].ring))));
        }
    }

    KvHead head(int64_t layer, int64_t head) const {
        const Layer &l = layers_[static_cast<size_t>(layer)];
        KvHead h = shape(l.ring);
        h.keys = l.keys.get() + head * key_bytes(l.ring);
        h.values = l.values.get() + head * value_bytes(l.ring);
        h.key_affine = reinterpret_cast<uint16_t *>(l.affine.get() + 2 * head * affine_bytes(l.ring));
        h.value_affine = reinterpret_cast<uint16_t *>(l.affine.get() + (2 * head + 1) * affine_bytes(l.ring));
        return h;
    }

    int64_t bytes() const {
        int64_t total = 0;
        for (const auto &l : layers_)
            total += heads_ * (key_bytes(l.ring) + value_bytes(l.ring) + 2 * affine_bytes(l.ring));
        return total;
    }

  private:
    struct Layer {
        Zeroed keys, values, affine;
        int64_t ring = 0;
    };

    static int64_t blocks(int64_t positions) { return (positions + kBlock - 1) / kBlock * kBlock; }
    int64_t padded() const { return blocks(dim_); }
    int64_t groups() const { return (dim_ + kGroup - 1) / kGroup; }
    int64_t key_bytes(int64_t ring) const { return ring * dim_ * bits_ / 8; }
    int64_t value_bytes(int64_t ring) const { return ring * padded() * bits_ / 8; }
    int64_t affine_bytes(int64_t ring) const { return bits_ < 16 ? ring * groups() * 4 : 0; }
    KvHead shape(int64_t ring) const {
        return {nullptr, nullptr, nullptr, nullptr, dim_, padded(), groups(), ring, bits_};
    }

    // A ring that grows has not wrapped yet, so that its positions keep their slots.
    void grow(Layer &layer, int64_t ring) const {
        Layer larger{Zeroed(heads_ * key_bytes(ring)), Zeroed(heads_ * value_bytes(ring)),
                     Zeroed(2 * heads_ * affine_bytes(ring)), ring};
        for (int64_t h = 0; h < heads_ && layer.ring > 0; ++h) {
            std::memcpy(larger.keys.get() + h * key_bytes(ring), layer.keys.get() + h * key_bytes(layer.ring),
                        static_cast<size_t>(key_bytes(layer.ring)));
            std::memcpy(larger.values.get() + h * value_bytes(ring), layer.values.get() + h * value_bytes(layer.ring),
                        static_cast<size_t>(value_bytes(layer.ring)));
            for (int64_t k = 2 * h; k < 2 * h + 2; ++k)
                std::memcpy(larger.affine.get() + k * affine_bytes(ring), layer.affine.get() + k * affine_bytes(layer.ring),
                            static_cast<size_t>(affine_bytes(layer.ring)));
        }
        layer = std::move(larger);
    }

    int64_t heads_, dim_;
    std::vector<int64_t> windows_;
    int64_t chunk_;
    int bits_;
    std::vector<Layer> layers_;
    int64_t length_ = 0, highest_ = 0;
};

}  // namespace mediant::decoder
