// x86_64 flags: -mavx2 -mfma
// The kernels on tiles for AVX2: 32 bytes a register.
#include "tile_registry.h"

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

namespace {

#include "lanes_256.h"

struct Lanes : Lanes256 {
    MEDIANT_TILE_INLINE static Bytes choose(Bytes low, Bytes high, Bytes which) {
        return _mm256_blendv_epi8(low, high, which);
    }
    MEDIANT_TILE_INLINE static Bytes keep(Bytes a) {
        asm("" : "+x"(a));
        return a;
    }
    MEDIANT_TILE_INLINE static Quad quad(const int8_t *numbers) {
        int32_t four;
        __builtin_memcpy(&four, numbers, 4);
        return keep(_mm256_set1_epi32(four));
    }
    MEDIANT_TILE_INLINE static Sums multiply(Bytes levels, Quad quad) { return _mm256_maddubs_epi16(levels, quad); }
    MEDIANT_TILE_INLINE static Sums multiply_add(Sums sums, Bytes levels, Quad quad) {
        return keep(_mm256_add_epi16(sums, multiply(levels, quad)));
    }
    MEDIANT_TILE_INLINE static Ints widen(Sums sums) { return _mm256_madd_epi16(sums, _mm256_set1_epi16(1)); }
    MEDIANT_TILE_INLINE static Ints add(Ints a, Ints b) { return keep(_mm256_add_epi32(a, b)); }
    MEDIANT_TILE_INLINE static void hadamard8(float *x) {
        const auto butterfly = [](__m256 own, __m256 other, __m256 minus) {
            return _mm256_add_ps(other, _mm256_xor_ps(own, minus));
        };
        const float m = -0.0f;
        __m256 v = _mm256_loadu_ps(x);
        v = butterfly(v, _mm256_permute_ps(v, 0xB1), _mm256_setr_ps(0, m, 0, m, 0, m, 0, m));
        v = butterfly(v, _mm256_permute_ps(v, 0x4E), _mm256_setr_ps(0, 0, m, m, 0, 0, m, m));
        v = butterfly(v, _mm256_permute2f128_ps(v, v, 1), _mm256_setr_ps(0, 0, 0, 0, m, m, m, m));
        _mm256_storeu_ps(x, v);
    }
};

#include "tiles.h"

bool available() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

}  // namespace

MEDIANT_TILES(avx2, 10)
#endif
