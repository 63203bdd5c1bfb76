// What the files tiles_NAME.cpp for registers of 32 bytes have in common, with AVX2 and FMA. Included by each inside its
// namespace, behind <immintrin.h>; so it has no include guard.

constexpr int kAhead = 1024;

struct Lanes256 {
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
    // Further on than the processor's own prefetching goes.
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
    // The table's elements by eight codes of 3 bits; reads a byte too many, and permutes by the low 3 bits alone.
    MEDIANT_TILE_INLINE static Floats factors3(Floats table, const uint8_t *code) {
        int32_t word;
        __builtin_memcpy(&word, code, 4);
        const __m256i shifts = _mm256_setr_epi32(0, 3, 6, 9, 12, 15, 18, 21);
        return _mm256_permutevar8x32_ps(table, _mm256_srlv_epi32(_mm256_set1_epi32(word), shifts));
    }
};
