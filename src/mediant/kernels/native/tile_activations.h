// Vectors as tiles are multiplied by them: rotated, and rounded to whole numbers of a step for every block. Included by
// tiles.h, with whose `Lanes` and under whose rules this is compiled.

// Hadamard transform of `size` numbers, a power of two, in the order of mediant.kernels.rotation, not yet scaled.
void hadamard(float *x, int64_t size) {
    int64_t width = 1;
    if (size >= 8) {
        for (int64_t i = 0; i < size; i += 8) Lanes::hadamard8(x + i);
        width = 8;
    }
    for (; width < size; width *= 2)
        for (int64_t i = 0; i < size; i += 2 * width)
            for (int64_t j = i; j < i + width; ++j) {
                const float a = x[j], b = x[j + width];
                x[j] = a + b;
                x[j + width] = a - b;
            }
}

void hadamards(float *x, int64_t blocks, int64_t size) {
    const float scale = static_cast<float>(1 / __builtin_sqrt(static_cast<double>(size)));
    for (int64_t k = 0; k < blocks; ++k) {
        hadamard(x + k * size, size);
        for (int64_t i = 0; i < size; ++i) x[k * size + i] *= scale;
    }
}

void transpose(const float *x, float *out, int64_t rows, int64_t columns) {
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j) out[j * rows + i] = x[i * columns + j];
}

// x Q, or x Q^T if `back`, as mediant.kernels.rotation does; scratch: `columns` numbers.
void rotate(float *x, const float *signs, float *scratch, int64_t columns, bool back) {
    const int64_t power = columns & -columns, odd = columns / power;
    if (!back)
        for (int64_t j = 0; j < columns; ++j) x[j] *= signs[j];
    hadamards(x, odd, power);
    if (odd > 1) {
        back ? transpose(x, scratch, power, odd) : transpose(x, scratch, odd, power);
        hadamards(scratch, odd, power);
        __builtin_memcpy(x, scratch, sizeof(float) * static_cast<size_t>(columns));
    }
    if (back)
        for (int64_t j = 0; j < columns; ++j) x[j] *= signs[j];
}

// A block of at most 32 numbers to integers and their scale. Below 2^-100 all is 0; with a number that is not finite
// the scale is NaN, and so is every product. A negative range is none.
void quantize_block(const float *x, int64_t count, int64_t place, float range, const ActivationView &out) {
    int8_t *high = out.high + kBlock * place, *low = out.precise ? out.low + kBlock * place : nullptr;
    float padded[kBlock] = {0}, top = 0;
    bool finite = true;
    for (int64_t j = 0; j < count; ++j) padded[j] = x[j];
    for (int j = 0; j < kBlock; ++j) {
        const float size = __builtin_fabsf(padded[j]);
        top = size > top ? size : top;
        finite &= size <= __FLT_MAX__;
    }
    const float most = out.precise ? 127 * 128 + 63 : 127;
    if (range >= 0) {
        for (int j = 0; j < kBlock; ++j) {
            padded[j] = padded[j] > range ? range : padded[j] < -range ? -range : padded[j];
        }
        top = range;
    }
    const bool counts = finite && top >= 0x1p-100f;
    const float inverse = counts ? most / top : 0;
    int32_t sum = 0;
    for (int j = 0; j < kBlock; ++j) {
        const int32_t number = counts ? static_cast<int32_t>(__builtin_rintf(padded[j] * inverse)) : 0;
        const int32_t upper = out.precise ? (number + 64) >> 7 : number;
        high[j] = static_cast<int8_t>(upper);
        if (low) low[j] = static_cast<int8_t>(number - 128 * upper);
        sum += number;
    }
    out.scales[place] = finite ? (counts ? top / most : 0) : __builtin_nanf("");
    out.sums[place] = out.scales[place] * static_cast<float>(sum);
}

void prepare(const float *x, const float *signs, float *scratch, int64_t index, ActivationView out) {
    if (signs) {
        __builtin_memcpy(scratch, x, sizeof(float) * static_cast<size_t>(out.columns));
        rotate(scratch, signs, scratch + out.columns, out.columns, false);
        x = scratch;
    }
    for (int64_t b = 0; b < out.blocks; ++b) {
        const int64_t left = out.columns - b * kBlock;
        const float range = out.ranges ? out.ranges[b] : -1;
        quantize_block(x + b * kBlock, left < kBlock ? left : kBlock, b * out.count + index, range, out);
    }
}
