// float16 and bfloat16 one number at a time, in whole-number arithmetic, the same on every machine.
#pragma once

#include <cstdint>
#include <cstring>

namespace mediant::decoder {

inline float bits_to_float(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline uint32_t float_to_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

inline float half_to_float(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16, magnitude = half & 0x7FFF;
    if (magnitude >= 0x7C00) return bits_to_float(sign | 0x7F800000 | (magnitude & 0x3FF) << 13);
    // Scaled as a float32 with 15 instead of 127 as the exponent's bias: right for subnormal numbers too.
    return bits_to_float(sign | float_to_bits(bits_to_float(magnitude << 13) * 0x1p112f));
}

// To the nearest float16, ties to even; what is too large becomes the largest finite number.
inline uint16_t float_to_half(float value) {
    const uint32_t bits = float_to_bits(value), sign = bits >> 16 & 0x8000;
    const float magnitude = bits_to_float(bits & 0x7FFFFFFF);
    if (!(magnitude < 65504.0f)) return static_cast<uint16_t>(sign | 0x7BFF);
    if (magnitude < 0x1p-14f) {
        // Adding 1/2 lines the number up with the last place of a subnormal float16.
        return static_cast<uint16_t>(sign | (float_to_bits(magnitude + 0.5f) - float_to_bits(0.5f)));
    }
    const uint32_t m = float_to_bits(magnitude);
    return static_cast<uint16_t>(sign | (((m + 0xFFF + (m >> 13 & 1)) >> 13) - (112u << 10)));
}

// The float16 next above (up) or below, unless the value is one itself.
inline uint16_t half_towards(float value, bool up) {
    const uint16_t half = float_to_half(value);
    const float back = half_to_float(half);
    if (back == value || (up ? back > value : back < value)) return half;
    if ((half & 0x7FFF) == 0) return up ? 0x0001 : 0x8001;
    const bool grow = up == !(half & 0x8000);
    if (grow && (half & 0x7FFF) == 0x7BFF) return half;
    return static_cast<uint16_t>(grow ? half + 1 : half - 1);
}

}  // namespace mediant::decoder
