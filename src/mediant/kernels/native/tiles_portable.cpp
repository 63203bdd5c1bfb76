// The kernels on tiles in plain C++, for processors without a file of their own; the compiler makes vectors of the loops.
// Inlining everything, as is right for intrinsics, would unroll these loops into minutes of compiling.
#define MEDIANT_TILE_INLINE inline
#include "tile_registry.h"

namespace {

struct Lanes {
    struct Bytes {
        uint8_t at[32];
    };
    struct Ints {
        int32_t at[8];
    };
    struct Floats {
        float at[8];
    };
    using Quad = const int8_t *;
    using Sums = Ints;
    static constexpr int unroll = 1;

    template <typename Value, typename Each>
    MEDIANT_TILE_INLINE static Value each(Each f) {
        Value out;
        for (int i = 0; i < static_cast<int>(sizeof(out.at) / sizeof(out.at[0])); ++i) out.at[i] = f(i);
        return out;
    }

    MEDIANT_TILE_INLINE static Bytes load(const uint8_t *at) {
        Bytes out;
        __builtin_memcpy(out.at, at, sizeof(out.at));
        return out;
    }
    MEDIANT_TILE_INLINE static Bytes table(const uint8_t *at) {
        return each<Bytes>([&](int i) { return at[i & 15]; });
    }
    MEDIANT_TILE_INLINE static Bytes fill(int value) {
        return each<Bytes>([&](int) { return static_cast<uint8_t>(value); });
    }
    MEDIANT_TILE_INLINE static Bytes both(const Bytes &a, const Bytes &b) {
        return each<Bytes>([&](int i) { return static_cast<uint8_t>(a.at[i] & b.at[i]); });
    }
    MEDIANT_TILE_INLINE static Bytes either(const Bytes &a, const Bytes &b) {
        return each<Bytes>([&](int i) { return static_cast<uint8_t>(a.at[i] | b.at[i]); });
    }
    static void ahead(const uint8_t *, int) {}
    template <int n>
    MEDIANT_TILE_INLINE static Bytes right(const Bytes &a) {
        return each<Bytes>([&](int i) { return static_cast<uint8_t>(a.at[i] >> n); });
    }
    template <int n>
    MEDIANT_TILE_INLINE static Bytes left(const Bytes &a) {
        return each<Bytes>([&](int i) { return static_cast<uint8_t>(a.at[i] << n); });
    }
    MEDIANT_TILE_INLINE static Bytes lookup(const Bytes &table, const Bytes &index) {
        return each<Bytes>([&](int i) { return table.at[index.at[i] & 15]; });
    }
    MEDIANT_TILE_INLINE static Bytes choose(const Bytes &low, const Bytes &high, const Bytes &which) {
        return each<Bytes>([&](int i) { return which.at[i] & 0x80 ? high.at[i] : low.at[i]; });
    }
    MEDIANT_TILE_INLINE static const Bytes &keep(const Bytes &a) { return a; }
    MEDIANT_TILE_INLINE static Quad quad(const int8_t *numbers) { return numbers; }
    MEDIANT_TILE_INLINE static Sums multiply(const Bytes &levels, Quad quad) { return multiply_add(Sums{}, levels, quad); }
    MEDIANT_TILE_INLINE static Sums multiply_add(Sums sums, const Bytes &levels, Quad quad) {
        for (int r = 0; r < 8; ++r)
            for (int c = 0; c < 4; ++c) sums.at[r] += levels.at[4 * r + c] * quad[c];
        return sums;
    }
    MEDIANT_TILE_INLINE static const Ints &widen(const Sums &sums) { return sums; }
    MEDIANT_TILE_INLINE static Ints add(const Ints &a, const Ints &b) {
        return each<Ints>([&](int i) { return a.at[i] + b.at[i]; });
    }
    template <int n>
    MEDIANT_TILE_INLINE static Ints shift_add(const Ints &high, const Ints &low) {
        return each<Ints>([&](int i) { return high.at[i] * (1 << n) + low.at[i]; });
    }
    MEDIANT_TILE_INLINE static Floats to_float(const Ints &a) {
        return each<Floats>([&](int i) { return static_cast<float>(a.at[i]); });
    }
    MEDIANT_TILE_INLINE static Floats set(float a) {
        return each<Floats>([&](int) { return a; });
    }
    MEDIANT_TILE_INLINE static Floats load_floats(const float *at) {
        return each<Floats>([&](int i) { return at[i]; });
    }
    MEDIANT_TILE_INLINE static void store_floats(float *at, const Floats &a) { __builtin_memcpy(at, a.at, sizeof(a.at)); }
    MEDIANT_TILE_INLINE static Floats times(const Floats &a, const Floats &b) {
        return each<Floats>([&](int i) { return a.at[i] * b.at[i]; });
    }
    MEDIANT_TILE_INLINE static Floats fused(const Floats &a, const Floats &b, const Floats &c) {
        return each<Floats>([&](int i) { return a.at[i] * b.at[i] + c.at[i]; });
    }
    MEDIANT_TILE_INLINE static Floats fused_minus(const Floats &a, const Floats &b, const Floats &c) {
        return each<Floats>([&](int i) { return a.at[i] * b.at[i] - c.at[i]; });
    }
    MEDIANT_TILE_INLINE static Floats factors3(const Floats &table, const uint8_t *code) {
        const uint32_t word = code[0] | code[1] << 8 | code[2] << 16;
        return each<Floats>([&](int i) { return table.at[word >> (3 * i) & 7]; });
    }
    MEDIANT_TILE_INLINE static void hadamard8(float *x) {
        for (int width = 1; width < 8; width *= 2)
            for (int i = 0; i < 8; i += 2 * width)
                for (int j = i; j < i + width; ++j) {
                    const float a = x[j], b = x[j + width];
                    x[j] = a + b;
                    x[j + width] = a - b;
                }
    }
};

#include "tiles.h"

bool available() { return true; }

}  // namespace

MEDIANT_TILES(portable, 0)
