// The operations for AVX2 with FMA and F16C.
#include "ops_includes.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")

namespace mediant::decoder::avx2 {

typedef float V8 __attribute__((vector_size(32)));
typedef int32_t I8 __attribute__((vector_size(32)));
constexpr const char *kName = "avx2";

MEDIANT_LANES V8 fma(V8 a, V8 b, V8 c) { return (V8)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
MEDIANT_LANES V8 load(const float *p) { return (V8)_mm256_loadu_ps(p); }
MEDIANT_LANES V8 load_half(const uint16_t *p) {
    return (V8)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
}
MEDIANT_LANES I8 load_bytes(const uint8_t *p) {
    return (I8)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(p)));
}
MEDIANT_LANES I8 load_words(const uint16_t *p) {
    return (I8)_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
}
MEDIANT_LANES V8 round_nearest(V8 x) {
    return (V8)_mm256_round_ps((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

#include "ops_body.h"

}  // namespace mediant::decoder::avx2

#pragma GCC pop_options

static bool available() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

MEDIANT_OPS(avx2, 10, available)
#endif
