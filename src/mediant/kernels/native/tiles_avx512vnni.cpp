// x86_64 flags: -mavx2 -mfma -mavx512f -mavx512bw -mavx512vl -mavx512vnni
// The kernels on tiles for AVX-512 with VNNI, on 32 bytes a register as the layout has them: one instruction multiplies
// a quad and adds it up.
#include "tile_registry.h"

#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
#include <immintrin.h>

namespace {

#include "lanes_256.h"

struct Lanes : Lanes256 {
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
