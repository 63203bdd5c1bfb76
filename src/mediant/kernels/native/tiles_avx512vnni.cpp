// x86_64 flags: -mavx2 -mfma -mavx512f -mavx512bw -mavx512vl -mavx512vnni
// The kernels on tiles for AVX-512 with VNNI, on 32 bytes a register as the layout has them: one instruction multiplies
// a quad and adds it up.
#include "tile_registry.h"

#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
#include <immintrin.h>

namespace {

constexpr int kAhead = 1024;

struct Lanes {
    using Bytes = __m256i;
    using Ints = __m256i;
    using Floats = __m256;
    using Quad = __m256i;
    using Sums = __m256i;
    static constexpr int unroll = 8;

    MEDIANT_TILE_INLINE static Bytes load(const uint8_t *at) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(at));
    }
    MEDIANT_TILE_INLINE static Bytes table(const uint8_t *at) {
        return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i *>(at)));
    }
    MEDIANT_TILE_INLINE static Bytes fill(int value) { return _mm256_set1_epi8(static_cast<char>(value)); }
    MEDIANT_TILE_INLINE static Bytes both(Bytes a, Bytes b) { return _mm256_and_si256(a, b); }
    MEDIANT_TILE_INLINE static Bytes either(Bytes a, Bytes b) { return _mm256_or_si256(a, b); }
    MEDIANT_TILE_INLINE static void ahead(const uint8_t *at, int bytes) {
        for (int i = 0; i < bytes; i += 64) _mm_prefetch(reinterpret_cast<const char *>(at + kAhead + i), _MM_HINT_T0);
    }
    template <int n>
    MEDIANT_TILE_INLINE static Bytes right(Bytes a) {
        if constexpr (n == 0) return a;
        else return _mm256_srli_epi16(a, n);
    }
    template <int n>
    MEDIANT_TILE_INLINE static Bytes left(Bytes a) { return _mm256_slli_epi16(a, n); }
    MEDIANT_TILE_INLINE static Bytes lookup(Bytes table, Bytes index) { return _mm256_shuffle_epi8(table, index); }
    MEDIANT_TILE_INLINE static Bytes choose(Bytes low, Bytes high, Bytes which) {
        return _mm256_mask_blend_epi8(_mm256_movepi8_mask(which), low, high);
    }
    MEDIANT_TILE_INLINE static Bytes keep(Bytes a) { return a; }
    MEDIANT_TILE_INLINE static Quad quad(const int8_t *numbers) {
        int32_t four;
        __builtin_memcpy(&four, numbers, 4);
        return _mm256_set1_epi32(four);
    }
    MEDIANT_TILE_INLINE static Sums multiply(Bytes levels, Quad quad) {
        return _mm256_dpbusd_epi32(_mm256_setzero_si256(), levels, quad);
    }
    MEDIANT_TILE_INLINE static Sums multiply_add(Sums sums, Bytes levels, Quad quad) {
        return _mm256_dpbusd_epi32(sums, levels, quad);
    }
    MEDIANT_TILE_INLINE static Ints widen(Sums sums) { return sums; }
    MEDIANT_TILE_INLINE static Ints add(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
    template <int n>
    MEDIANT_TILE_INLINE static Ints shift_add(Ints high, Ints low) {
        return _mm256_add_epi32(_mm256_slli_epi32(high, n), low);
    }
    MEDIANT_TILE_INLINE static Floats to_float(Ints a) { return _mm256_cvtepi32_ps(a); }
    MEDIANT_TILE_INLINE static Floats set(float a) { return _mm256_set1_ps(a); }
    MEDIANT_TILE_INLINE static Floats load_floats(const float *at) { return _mm256_loadu_ps(at); }
    MEDIANT_TILE_INLINE static void store_floats(float *at, Floats a) { _mm256_storeu_ps(at, a); }
    MEDIANT_TILE_INLINE static Floats times(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
    MEDIANT_TILE_INLINE static Floats fused(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
    MEDIANT_TILE_INLINE static Floats fused_minus(Floats a, Floats b, Floats c) { return _mm256_fmsub_ps(a, b, c); }
    MEDIANT_TILE_INLINE static Floats factors3(Floats table, const uint8_t *code) {
        int32_t word;
        __builtin_memcpy(&word, code, 4);
        const __m256i shifts = _mm256_setr_epi32(0, 3, 6, 9, 12, 15, 18, 21);
        return _mm256_permutevar8x32_ps(table, _mm256_srlv_epi32(_mm256_set1_epi32(word), shifts));
    }
    MEDIANT_TILE_INLINE static void hadamard8(float *x) {
        const auto butterfly = [](__m256 own, __m256 other, __mmask8 minus) {
            return _mm256_mask_sub_ps(_mm256_add_ps(other, own), minus, other, own);
        };
        __m256 v = _mm256_loadu_ps(x);
        v = butterfly(v, _mm256_permute_ps(v, 0xB1), 0xAA);
        v = butterfly(v, _mm256_permute_ps(v, 0x4E), 0xCC);
        v = butterfly(v, _mm256_permute2f128_ps(v, v, 1), 0xF0);
        _mm256_storeu_ps(x, v);
    }
};

#include "tiles.h"

bool available() {
    return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("fma");
}

}  // namespace

MEDIANT_TILES(avx512vnni, 20)
#endif
