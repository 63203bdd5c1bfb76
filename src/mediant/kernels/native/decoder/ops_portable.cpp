// The operations for any machine: the compiler turns the eight lanes into what it has.
#include "ops_includes.h"

namespace mediant::decoder::portable {

typedef float V8 __attribute__((vector_size(32)));
typedef int32_t I8 __attribute__((vector_size(32)));
constexpr const char *kName = "portable";

MEDIANT_LANES V8 fma(V8 a, V8 b, V8 c) { return a * b + c; }
MEDIANT_LANES V8 load(const float *p) {
    V8 v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
MEDIANT_LANES V8 load_half(const uint16_t *p) {
    V8 v;
    for (int i = 0; i < 8; ++i) v[i] = half_to_float(p[i]);
    return v;
}
MEDIANT_LANES I8 load_bytes(const uint8_t *p) {
    I8 v;
    for (int i = 0; i < 8; ++i) v[i] = p[i];
    return v;
}
MEDIANT_LANES I8 load_words(const uint16_t *p) {
    I8 v;
    for (int i = 0; i < 8; ++i) v[i] = p[i];
    return v;
}
MEDIANT_LANES V8 round_nearest(V8 x) {
    for (int i = 0; i < 8; ++i) x[i] = __builtin_rintf(x[i]);
    return x;
}

#include "ops_body.h"

}  // namespace mediant::decoder::portable

MEDIANT_OPS(portable, 0, [] { return true; })
