// The operations, in eight lanes. Included by each ops_<set>.cpp inside its namespace, behind V8, I8, kName, fma, load,
// load_half, load_bytes, load_words and round_nearest of that set; so it has no include guard.

MEDIANT_LANES V8 all(float x) { return V8{x, x, x, x, x, x, x, x}; }
MEDIANT_LANES V8 to_floats(I8 x) { return __builtin_convertvector(x, V8); }
MEDIANT_LANES void put(float *p, V8 v) { __builtin_memcpy(p, &v, sizeof v); }
MEDIANT_LANES V8 largest(V8 a, V8 b) { return a > b ? a : b; }

MEDIANT_LANES float sum(V8 v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }

MEDIANT_LANES float peak(V8 v) {
    float most = v[0];
    for (int i = 1; i < 8; ++i) most = v[i] > most ? v[i] : most;
    return most;
}

// The last, shorter run of numbers, with zeros behind.
MEDIANT_LANES V8 load_some(const float *p, int64_t count) {
    float padded[8] = {0};
    for (int64_t i = 0; i < count; ++i) padded[i] = p[i];
    return load(padded);
}

// exp to two units in the last place (coefficients of Cephes' expf, S. Moshier); 0 below -87.
MEDIANT_LANES V8 exponential(V8 x) {
    const V8 low = all(-87.0f), clipped = largest(x < all(88.0f) ? x : all(88.0f), low);
    const V8 n = round_nearest(clipped * all(1.44269504f));
    V8 r = fma(n, all(-0.693359375f), clipped);
    r = fma(n, all(2.12194440e-4f), r);
    V8 p = all(1.9875691500e-4f);
    p = fma(p, r, all(1.3981999507e-3f));
    p = fma(p, r, all(8.3334519073e-3f));
    p = fma(p, r, all(4.1665795894e-2f));
    p = fma(p, r, all(1.6666665459e-1f));
    p = fma(p, r, all(5.0000001201e-1f));
    p = fma(p * r, r, r) + all(1.0f);
    const I8 exponent = __builtin_convertvector(n, I8) + 127;
    return x < low ? all(0.0f) : p * (V8)(exponent << 23);
}

// tanh: by its odd polynomial near 0 (Cephes' tanhf), by exp elsewhere.
MEDIANT_LANES V8 hyperbolic_tangent(V8 x) {
    const V8 size = x < all(0.0f) ? -x : x, square = x * x;
    V8 p = all(-5.70498872745e-3f);
    p = fma(p, square, all(2.06390887954e-2f));
    p = fma(p, square, all(-5.37397155531e-2f));
    p = fma(p, square, all(1.33314422036e-1f));
    p = fma(p, square, all(-3.33332819422e-1f));
    const V8 near = fma(p * square, x, x);
    const V8 t = exponential(all(-2.0f) * size), far = (all(1.0f) - t) / (all(1.0f) + t);
    return size < all(0.625f) ? near : (x < all(0.0f) ? -far : far);
}

// ---- matrices of plain numbers

template <Number number>
MEDIANT_LANES V8 load_number(const void *w, int64_t index) {
    if constexpr (number == Number::float32) return load(static_cast<const float *>(w) + index);
    const uint16_t *words = static_cast<const uint16_t *>(w) + index;
    if constexpr (number == Number::float16) return load_half(words);
    return (V8)(load_words(words) << 16);
}

template <Number number>
MEDIANT_LANES V8 load_some_numbers(const void *w, int64_t index, int64_t count) {
    if constexpr (number == Number::float32) return load_some(static_cast<const float *>(w) + index, count);
    uint16_t padded[8] = {0};
    for (int64_t i = 0; i < count; ++i) padded[i] = static_cast<const uint16_t *>(w)[index + i];
    return load_number<number>(padded, 0);
}

template <Number number, int rows, int tokens>
MEDIANT_LANES void dense_tile(const void *w, int64_t columns, const float *x, int64_t x_stride, float *y,
                              int64_t y_stride, int64_t row) {
    V8 sums[rows][tokens] = {};
    int64_t j = 0;
    for (; j + 8 <= columns; j += 8) {
        V8 inputs[tokens];
        for (int t = 0; t < tokens; ++t) inputs[t] = load(x + t * x_stride + j);
        for (int r = 0; r < rows; ++r) {
            const V8 weights = load_number<number>(w, (row + r) * columns + j);
            for (int t = 0; t < tokens; ++t) sums[r][t] = fma(weights, inputs[t], sums[r][t]);
        }
    }
    if (j < columns)
        for (int r = 0; r < rows; ++r) {
            const V8 weights = load_some_numbers<number>(w, (row + r) * columns + j, columns - j);
            for (int t = 0; t < tokens; ++t)
                sums[r][t] = fma(weights, load_some(x + t * x_stride + j, columns - j), sums[r][t]);
        }
    for (int r = 0; r < rows; ++r)
        for (int t = 0; t < tokens; ++t) y[t * y_stride + row + r] = sum(sums[r][t]);
}

template <Number number>
static void dense_rows(const void *w, int64_t columns, const float *x, int64_t x_stride, int64_t tokens, float *y,
                       int64_t y_stride, int64_t begin, int64_t end) {
    constexpr int64_t kTokens = 48;  // whose inputs stay in the second cache while the rows pass
    for (int64_t first = 0; first < tokens; first += kTokens) {
        const int64_t last = std::min(first + kTokens, tokens);
        int64_t row = begin;
        if (last - first == 1)
            for (; row + 8 <= end; row += 8)
                dense_tile<number, 8, 1>(w, columns, x + first * x_stride, x_stride, y + first * y_stride, y_stride, row);
        for (; row < end; row += row + 4 <= end ? 4 : 1) {
            int64_t t = first;
            if (row + 4 <= end) {
                for (; t + 3 <= last; t += 3)
                    dense_tile<number, 4, 3>(w, columns, x + t * x_stride, x_stride, y + t * y_stride, y_stride, row);
                for (; t < last; ++t)
                    dense_tile<number, 4, 1>(w, columns, x + t * x_stride, x_stride, y + t * y_stride, y_stride, row);
            } else {
                for (; t < last; ++t)
                    dense_tile<number, 1, 1>(w, columns, x + t * x_stride, x_stride, y + t * y_stride, y_stride, row);
            }
        }
    }
}

static void dense(const void *w, Number number, int64_t columns, const float *x, int64_t x_stride, int64_t tokens,
                  float *y, int64_t y_stride, int64_t begin, int64_t end) {
    switch (number) {
        case Number::float32: return dense_rows<Number::float32>(w, columns, x, x_stride, tokens, y, y_stride, begin, end);
        case Number::float16: return dense_rows<Number::float16>(w, columns, x, x_stride, tokens, y, y_stride, begin, end);
        default: return dense_rows<Number::bfloat16>(w, columns, x, x_stride, tokens, y, y_stride, begin, end);
    }
}

static void widen(const void *from, Number number, int64_t count, float *to) {
    for (int64_t i = 0; i < count; ++i) {
        if (number == Number::float32) to[i] = static_cast<const float *>(from)[i];
        else if (number == Number::float16) to[i] = half_to_float(static_cast<const uint16_t *>(from)[i]);
        else to[i] = bits_to_float(static_cast<uint32_t>(static_cast<const uint16_t *>(from)[i]) << 16);
    }
}

// ---- norms and element by element

static void rms_norm(const float *x, const float *weight, float epsilon, int64_t count, float *out) {
    V8 squares = all(0.0f);
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) squares = fma(load(x + i), load(x + i), squares);
    if (i < count) {
        const V8 rest = load_some(x + i, count - i);
        squares = fma(rest, rest, squares);
    }
    const float factor = 1.0f / std::sqrt(sum(squares) / static_cast<float>(count) + epsilon);
    for (i = 0; i + 8 <= count; i += 8) put(out + i, load(x + i) * all(factor) * load(weight + i));
    for (; i < count; ++i) out[i] = x[i] * factor * weight[i];
}

static void layer_norm(const float *x, const float *weight, const float *bias, float epsilon, int64_t count, float *out) {
    double total = 0, squares = 0;
    for (int64_t i = 0; i < count; ++i) total += x[i];
    const float mean = static_cast<float>(total / static_cast<double>(count));
    for (int64_t i = 0; i < count; ++i) squares += static_cast<double>(x[i] - mean) * (x[i] - mean);
    const float factor = static_cast<float>(1 / std::sqrt(squares / static_cast<double>(count) + epsilon));
    for (int64_t i = 0; i < count; ++i) {
        const float value = (x[i] - mean) * factor * (weight ? weight[i] : 1.0f);
        out[i] = bias ? value + bias[i] : value;
    }
}

MEDIANT_LANES V8 activation_of(Activation activation, V8 x) {
    if (activation == Activation::relu) return largest(x, all(0.0f));
    // x (1 + tanh u) / 2 = x / (1 + exp(-2 u)), and silu(x) = x / (1 + exp(-x))
    const V8 cubic = fma(x * x * all(0.044715f), x, x);
    const V8 exponent = activation == Activation::silu ? -x : all(-1.5957691216f) * cubic;
    return x / (all(1.0f) + exponential(exponent));
}

static void activate(Activation activation, const float *gate, const float *up, int64_t count, float *out) {
    if (activation == Activation::gelu) {
        for (int64_t i = 0; i < count; ++i) {
            const double x = gate[i];
            const float value = static_cast<float>(0.5 * x * std::erfc(-x * 0.70710678118654752440));
            out[i] = up ? value * up[i] : value;
        }
        return;
    }
    for (int64_t i = 0; i < count; i += 8) {
        const int64_t size = std::min<int64_t>(8, count - i);
        const V8 x = size == 8 ? load(gate + i) : load_some(gate + i, size);
        V8 value = activation_of(activation, x);
        if (up) value *= size == 8 ? load(up + i) : load_some(up + i, size);
        if (size == 8) put(out + i, value);
        else
            for (int64_t k = 0; k < size; ++k) out[i + k] = value[k];
    }
}

static void add(float *x, const float *y, int64_t count) {
    for (int64_t i = 0; i < count; ++i) x[i] += y[i];
}

static void soft_cap(float *x, int64_t count, float cap) {
    for (int64_t i = 0; i < count; i += 8) {
        const int64_t size = std::min<int64_t>(8, count - i);
        const V8 value = all(cap) * hyperbolic_tangent(load_some(x + i, size) / all(cap));
        for (int64_t k = 0; k < size; ++k) x[i + k] = value[k];
    }
}

// Turns the pairs (x[i], x[half + i]) by the angles.
static void rotate(float *x, const float *cosine, const float *sine, int64_t half) {
    for (int64_t i = 0; i < half; ++i) {
        const float a = x[i], b = x[half + i];
        x[i] = a * cosine[i] - b * sine[i];
        x[half + i] = b * cosine[i] + a * sine[i];
    }
}

static int64_t argmax(const float *x, int64_t count) {
    V8 most = all(-std::numeric_limits<float>::infinity());
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) most = largest(load(x + i), most);
    float top = peak(most);
    for (; i < count; ++i) top = x[i] > top ? x[i] : top;
    for (i = 0; i < count; ++i)
        if (x[i] == top) return i;
    return 0;
}

static void exponentials(const float *x, int64_t count, float top, float factor, float *out) {
    for (int64_t i = 0; i < count; i += 8) {
        const int64_t size = std::min<int64_t>(8, count - i);
        const V8 value = exponential(((size == 8 ? load(x + i) : load_some(x + i, size)) - all(top)) * all(factor));
        if (size == 8) put(out + i, value);
        else
            for (int64_t k = 0; k < size; ++k) out[i + k] = value[k];
    }
}

// ---- keys and values

// Codes of `count` numbers at p, p + stride, ...: the same step and least value, float16, rounded so that no code
// clips. Returns the step and the least value.
template <int top>
MEDIANT_LANES void quantize(const float *x, int64_t count, uint8_t *codes, uint16_t *step, uint16_t *least) {
    float low = x[0], high = x[0];
    for (int64_t i = 1; i < count; ++i) low = std::min(low, x[i]), high = std::max(high, x[i]);
    *least = half_towards(low, false);
    const float start = half_to_float(*least);
    *step = half_towards((high - start) / static_cast<float>(top), true);
    const float size = half_to_float(*step), factor = size > 0 ? 1.0f / size : 0.0f;
    for (int64_t i = 0; i < count; ++i) {
        const float code = __builtin_rintf((x[i] - start) * factor);
        codes[i] = static_cast<uint8_t>(std::min(std::max(code, 0.0f), static_cast<float>(top)));
    }
}

MEDIANT_LANES void put_number(uint8_t *base, int64_t index, int bits, float value) {
    if (bits == 32) std::memcpy(base + 4 * index, &value, 4);
    else {
        const uint16_t half = float_to_half(value);
        std::memcpy(base + 2 * index, &half, 2);
    }
}

// Numbers 16 k to 16 k + 15 lie in eight bytes: the first eight in the low halves.
MEDIANT_LANES void put_code(uint8_t *base, int64_t index, int bits, uint8_t code) {
    if (bits == 8) {
        base[index] = code;
        return;
    }
    uint8_t &byte = base[index / 16 * 8 + index % 8];
    byte = index % 16 < 8 ? static_cast<uint8_t>((byte & 0xF0) | code) : static_cast<uint8_t>((byte & 0x0F) | code << 4);
}

static void store(const KvHead &h, int64_t position, const float *key, const float *value) {
    const int64_t slot = position % h.ring, block = slot / kBlock, lane = slot % kBlock;
    if (h.bits >= 16) {
        for (int64_t d = 0; d < h.dim; ++d) {
            put_number(h.keys, (block * h.dim + d) * kBlock + lane, h.bits, key[d]);
            put_number(h.values, slot * h.padded + d, h.bits, value[d]);
        }
        return;
    }
    for (int64_t g = 0; g < h.groups; ++g) {
        const int64_t begin = g * kGroup, count = std::min(kGroup, h.dim - begin);
        uint8_t codes[2][kGroup];
        uint16_t *const keys = h.key_affine + (block * h.groups + g) * 2 * kBlock + lane;
        uint16_t *const values = h.value_affine + (slot * h.groups + g) * 2;
        if (h.bits == 8) {
            quantize<255>(key + begin, count, codes[0], keys, keys + kBlock);
            quantize<255>(value + begin, count, codes[1], values, values + 1);
        } else {
            quantize<15>(key + begin, count, codes[0], keys, keys + kBlock);
            quantize<15>(value + begin, count, codes[1], values, values + 1);
        }
        for (int64_t i = 0; i < count; ++i) {
            put_code(h.keys, (block * h.dim + begin + i) * kBlock + lane, h.bits, codes[0][i]);
            put_code(h.values, slot * h.padded + begin + i, h.bits, codes[1][i]);
        }
    }
}

// ---- attention

// Sixteen neighbouring numbers as they are stored, from number `index`, a multiple of 16.
template <int bits>
MEDIANT_LANES void load_sixteen(const uint8_t *base, int64_t index, V8 &a, V8 &b) {
    if constexpr (bits == 32) {
        const float *p = reinterpret_cast<const float *>(base) + index;
        a = load(p), b = load(p + 8);
    } else if constexpr (bits == 16) {
        const uint16_t *p = reinterpret_cast<const uint16_t *>(base) + index;
        a = load_half(p), b = load_half(p + 8);
    } else if constexpr (bits == 8) {
        a = to_floats(load_bytes(base + index)), b = to_floats(load_bytes(base + index + 8));
    } else {
        const I8 pairs = load_bytes(base + index / 2);
        a = to_floats(pairs & 15), b = to_floats(pairs >> 4);
    }
}

// Scores of `rows` queries at kBlock positions of `blocks` blocks, which lie `apart` floats from each other in `scores`.
template <int bits, int rows, int blocks>
MEDIANT_LANES void score(const KvHead &h, const Query *queries, const int64_t *block, float *scores, int64_t apart) {
    V8 sums[rows][2 * blocks] = {};
    V8 step[2 * blocks], least[2 * blocks];
    for (int64_t d = 0; d < h.dim; ++d) {
        if (bits < 16 && d % kGroup == 0)
            for (int b = 0; b < 2 * blocks; ++b) {
                const uint16_t *affine = h.key_affine + (block[b / 2] * h.groups + d / kGroup) * 2 * kBlock + b % 2 * 8;
                step[b] = load_half(affine), least[b] = load_half(affine + kBlock);
            }
        V8 keys[2 * blocks];
        for (int b = 0; b < blocks; ++b) {
            load_sixteen<bits>(h.keys, (block[b] * h.dim + d) * kBlock, keys[2 * b], keys[2 * b + 1]);
            if (bits < 16)
                for (int k = 2 * b; k < 2 * b + 2; ++k) keys[k] = fma(keys[k], step[k], least[k]);
        }
        for (int r = 0; r < rows; ++r) {
            const V8 query = all(queries[r].query[d]);
            for (int b = 0; b < 2 * blocks; ++b) sums[r][b] = fma(query, keys[b], sums[r][b]);
        }
    }
    for (int r = 0; r < rows; ++r)
        for (int b = 0; b < 2 * blocks; ++b) put(scores + r * apart + 8 * b, sums[r][b]);
}

// Sums of values, weighted by `weights` [rows][apart], for `chunks` runs of 16 dimensions from number `from`.
template <int bits, int rows, int chunks>
MEDIANT_LANES void mix(const KvHead &h, const Query *queries, const float *weights, int64_t apart, int64_t begin,
                       int64_t first, int64_t last, int64_t from) {
    V8 sums[rows][2 * chunks] = {};
    int64_t slot = first % h.ring;
    for (int64_t p = first; p <= last; ++p) {
        V8 values[2 * chunks];
        for (int c = 0; c < chunks; ++c) {
            const int64_t d = from + c * 16;
            load_sixteen<bits>(h.values, slot * h.padded + d, values[2 * c], values[2 * c + 1]);
            if (bits < 16) {
                const uint16_t *affine = h.value_affine + (slot * h.groups + d / kGroup) * 2;
                const V8 step = all(half_to_float(affine[0])), least = all(half_to_float(affine[1]));
                for (int k = 2 * c; k < 2 * c + 2; ++k) values[k] = fma(values[k], step, least);
            }
        }
        for (int r = 0; r < rows; ++r) {
            const V8 weight = all(weights[r * apart + p - begin]);
            for (int c = 0; c < 2 * chunks; ++c) sums[r][c] = fma(weight, values[c], sums[r][c]);
        }
        if (++slot == h.ring) slot = 0;
    }
    for (int r = 0; r < rows; ++r)
        for (int c = 0; c < 2 * chunks; ++c) {
            const int64_t d = from + 8 * c;
            for (int64_t i = 0; i < 8 && d + i < h.dim; ++i) queries[r].out[d + i] = sums[r][c][i];
        }
}

// Scores to weights that are not yet divided by their sum, which is returned. Positions out of reach get 0.
MEDIANT_LANES float soften(float *scores, int64_t count, int64_t from, int64_t to, float scale, float cap) {
    V8 most = all(-std::numeric_limits<float>::infinity());
    const I8 lane = {0, 1, 2, 3, 4, 5, 6, 7};
    for (int64_t i = 0; i < count; i += 8) {
        V8 s = load(scores + i) * all(scale);
        if (cap > 0) s = all(cap) * hyperbolic_tangent(s / all(cap));
        const I8 place = lane + static_cast<int32_t>(i);
        const I8 seen = (place >= static_cast<int32_t>(from)) & (place <= static_cast<int32_t>(to));
        s = seen ? s : all(-std::numeric_limits<float>::infinity());
        most = largest(s, most);
        put(scores + i, s);
    }
    const V8 top = all(peak(most));
    V8 total = all(0.0f);
    for (int64_t i = 0; i < count; i += 8) {
        const V8 weight = exponential(load(scores + i) - top);
        total += weight;
        put(scores + i, weight);
    }
    return sum(total);
}

template <int bits, int rows>
static void attend_rows(const KvHead &h, const Query *queries, float scale, float cap, float *scores) {
    constexpr int kTogether = rows == 1 ? 4 : rows <= 3 ? 2 : 1;  // enough independent sums to keep the units busy
    int64_t first = queries[0].first, last = queries[0].last;
    for (int r = 1; r < rows; ++r) first = std::min(first, queries[r].first), last = std::max(last, queries[r].last);
    const int64_t begin = first / kBlock * kBlock, count = (last / kBlock + 1) * kBlock - begin, blocks = h.ring / kBlock;
    int64_t p = 0;
    for (; p + kTogether * kBlock <= count; p += kTogether * kBlock) {
        int64_t block[kTogether];
        for (int b = 0; b < kTogether; ++b) block[b] = ((begin + p) / kBlock + b) % blocks;
        score<bits, rows, kTogether>(h, queries, block, scores + p, count);
    }
    for (; p < count; p += kBlock) {
        const int64_t block = (begin + p) / kBlock % blocks;
        score<bits, rows, 1>(h, queries, &block, scores + p, count);
    }
    float factors[rows];
    for (int r = 0; r < rows; ++r)
        factors[r] = 1.0f / soften(scores + r * count, count, queries[r].first - begin, queries[r].last - begin, scale, cap);
    int64_t d = 0;
    for (; d + 16 * kTogether <= h.padded; d += 16 * kTogether)
        mix<bits, rows, kTogether>(h, queries, scores, count, begin, first, last, d);
    for (; d < h.padded; d += 16) mix<bits, rows, 1>(h, queries, scores, count, begin, first, last, d);
    for (int r = 0; r < rows; ++r)
        for (int64_t i = 0; i < h.dim; ++i) queries[r].out[i] *= factors[r];
}

// Blocks of 1, 3 or kRows queries; a smaller number is filled up with copies, whose results go nowhere.
template <int bits>
static void attend_bits(const KvHead &h, const Query *queries, int count, float scale, float cap, float *scratch) {
    if (count == 1) return attend_rows<bits, 1>(h, queries, scale, cap, scratch);
    if (count == 3) return attend_rows<bits, 3>(h, queries, scale, cap, scratch);
    if (count == kRows) return attend_rows<bits, kRows>(h, queries, scale, cap, scratch);
    Query filled[kRows];
    for (int r = 0; r < kRows; ++r) filled[r] = queries[std::min(r, count - 1)];
    for (int r = count; r < kRows; ++r) filled[r].out = scratch, scratch += h.dim;
    if (count == 2) return attend_rows<bits, 3>(h, filled, scale, cap, scratch);
    return attend_rows<bits, kRows>(h, filled, scale, cap, scratch);
}

static void attend(const KvHead &h, const Query *queries, int count, float scale, float cap, float *scratch) {
    switch (h.bits) {
        case 32: return attend_bits<32>(h, queries, count, scale, cap, scratch);
        case 16: return attend_bits<16>(h, queries, count, scale, cap, scratch);
        case 8: return attend_bits<8>(h, queries, count, scale, cap, scratch);
        default: return attend_bits<4>(h, queries, count, scale, cap, scratch);
    }
}

static const Ops kOps = {kName,     &dense,  &widen, &rms_norm, &layer_norm, &activate,    &add,
                         &soft_cap, &rotate, &store, &attend,   &argmax,     &exponentials};
