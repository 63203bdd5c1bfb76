// The kernels on tiles, written once. A file tiles_NAME.cpp defines `Lanes`, the operations of one instruction set on
// 32 bytes, 8 integers and 8 floats, in an unnamed namespace, then includes this file there and makes the result known
// with MEDIANT_TILES. So everything here has internal linkage and no instruction leaks into another file; for the same
// reason nothing of the standard library is used.
//
// Lanes has: Bytes, Ints, Floats, Quad (four activations for all rows), Sums (sums of products of a few quads, 16 bits
// wide or wider); unroll (how often loops are written out; 1: panels are never in step); load, table (16 bytes twice),
// fill, both, either, right<n>, left<n> (of 8 or 16 bits), lookup (sees bits 0 to 3), choose (by the top bit); ahead (a
// hint that bytes further on will be read); keep (a value that the compiler should have ready here, lest it moves loads
// and spills); quad, multiply, multiply_add, widen; add, shift_add; to_float, set, load_floats, store_floats, times,
// fused (a b + c), fused_minus (a b - c), factors3, hadamard8.

using mediant::ActivationView;
using mediant::kBlock;
using mediant::kDigits;
using mediant::kLayouts;
using mediant::kPanel;
using mediant::kWidths;
using mediant::PackedMatrix;
using mediant::PackedRun;

constexpr int digit_width(int layout, int d) { return d < kDigits ? kWidths[layout][d] : 0; }
constexpr int digit_count(int layout) {
    int count = 0;
    while (digit_width(layout, count)) ++count;
    return count;
}
constexpr int code_bits(int layout) {
    int bits = 0;
    for (int d = 0; d < kDigits; ++d) bits += digit_width(layout, d);
    return bits;
}
// How many products of a level and an activation pair fit into 16 bits together: levels below 32, 64, 128.
constexpr int sums_in_16_bits(int bits) { return bits <= 3 ? 4 : bits == 4 ? 2 : 1; }

using Bytes = Lanes::Bytes;
using Ints = Lanes::Ints;
using Floats = Lanes::Floats;
using Sums = Lanes::Sums;

struct Tables {
    Bytes low, high;
};

// The eight quads of one digit from its 32 * w bytes, in the low bits of each byte; quad is known when compiling.
template <int width, int quad>
MEDIANT_TILE_INLINE Bytes digit_of(const uint8_t *at) {
    constexpr int per_vector = 8 / width;
    const Bytes all = Lanes::load(at + 32 * (quad / per_vector));
    // One bit wide, quads 0, 2 and 1, 3 and so on lie four bits apart, which is what `expand` wants for 3 bits.
    constexpr int place = width == 1 ? (quad & 1) | (quad >> 1 & 1) << 2 | (quad >> 2) << 1 : quad % per_vector;
    constexpr int shift = width * place;
    return Lanes::both(Lanes::right<shift>(all), Lanes::fill((1 << width) - 1));
}

template <int layout, int quad, int d = 0>
MEDIANT_TILE_INLINE Bytes code_of(const uint8_t *const *at, Bytes before) {
    constexpr int width = digit_width(layout, d);
    if constexpr (width == 0) {
        return before;
    } else {
        const Bytes here = digit_of<width, quad>(at[d]);
        if constexpr (d == 0) return code_of<layout, quad, 1>(at, here);
        else return code_of<layout, quad, d + 1>(at, Lanes::either(Lanes::left<width>(before), here));
    }
}

// A code's level from a byte whose bits 4 to 6 may be anything but whose top bit is 0.
template <int bits>
MEDIANT_TILE_INLINE Bytes level_of(Bytes code, const Tables &tables) {
    if constexpr (bits <= 4) return Lanes::lookup(tables.low, code);
    else if constexpr (bits == 5)
        return Lanes::choose(Lanes::lookup(tables.low, code), Lanes::lookup(tables.high, code), Lanes::left<3>(code));
    else return code;
}

// Quads of a block that are expanded together: as many as 16-bit sums take, two at least.
template <int layout>
constexpr int kPart = code_bits(layout) <= 3 ? 4 : 2;

// What the levels of a part are looked up by, in up to four vectors. Only the lists that are used most are written out;
// they leave bits 4 to 6 of a byte as they come, which the look-up does not see.
template <int layout, int part>
MEDIANT_TILE_INLINE void hold(const uint8_t *const *at, Bytes *held) {
    if constexpr (layout == 1 || layout == 3) {
        const Bytes low = Lanes::fill(0x0F), all = Lanes::keep(Lanes::load(at[0] + 32 * part));
        held[0] = Lanes::keep(Lanes::both(all, low));
        held[1] = Lanes::keep(Lanes::both(Lanes::right<4>(all), low));
    } else if constexpr (layout == 2) {
        // The last digit goes to bit 2 of each half byte instead of bit 0; the table is ordered for that.
        const Bytes pairs = Lanes::fill(0x33), third = Lanes::fill(0x44);
        const Bytes all = Lanes::keep(Lanes::load(at[0] + 32 * part)), last = Lanes::load(at[1]);
        const Bytes first = part ? last : Lanes::left<2>(last), second = part ? Lanes::right<1>(last) : Lanes::left<1>(last);
        held[0] = Lanes::keep(Lanes::either(Lanes::both(all, pairs), Lanes::both(first, third)));
        held[1] = Lanes::keep(Lanes::either(Lanes::both(Lanes::right<2>(all), pairs), Lanes::both(second, third)));
    } else {
        const Bytes none = Lanes::fill(0);
        constexpr int quad = kPart<layout> * part;
        held[0] = code_of<layout, quad>(at, none);
        held[1] = code_of<layout, quad + 1>(at, none);
        if constexpr (kPart<layout> == 4) {
            held[2] = code_of<layout, quad + 2>(at, none);
            held[3] = code_of<layout, quad + 3>(at, none);
        }
    }
}

// The levels of a part's quad q, which is known when compiling.
template <int layout>
MEDIANT_TILE_INLINE Bytes level_in(const Bytes *held, int q, const Tables &tables) {
    if constexpr (layout == 1) return Lanes::lookup(q & 1 ? tables.high : tables.low, held[q >> 1]);
    else if constexpr (layout == 2) return Lanes::lookup(tables.low, q & 2 ? Lanes::right<4>(held[q & 1]) : held[q & 1]);
    else return level_of<code_bits(layout)>(held[q], tables);
}

// Levels of 8 rows times 32 columns: eight quads.
template <int layout, int part = 0>
MEDIANT_TILE_INLINE void expand(const uint8_t *const *at, const Tables &tables, Bytes *out) {
    Bytes held[kPart<layout>];
    hold<layout, part>(at, held);
#pragma GCC unroll Lanes::unroll
    for (int q = 0; q < kPart<layout>; ++q) out[kPart<layout> * part + q] = level_in<layout>(held, q, tables);
    if constexpr (kPart<layout> * (part + 1) < 8) expand<layout, part + 1>(at, tables, out);
}

// Codes of 2 bits are looked up two at a time, once for the lower and once for the upper, whatever the two stand for.
Tables tables_of(const PackedRun &run, int layout) {
    uint8_t low[16], high[16];
    for (int i = 0; i < 16; ++i) {
        low[i] = run.levels[layout == 2 ? (i & 3) << 1 | (i >> 2 & 1) : i];
        high[i] = run.levels[16 + i];
    }
    return {Lanes::table(low), Lanes::table(high)};
}

template <int together>
MEDIANT_TILE_INLINE Ints dots(const Bytes *levels, const int8_t *numbers) {
    Ints total{};
#pragma GCC unroll Lanes::unroll
    for (int q = 0; q < 8; q += together) {
        Sums sum = Lanes::multiply(levels[q], Lanes::quad(numbers + 4 * q));
#pragma GCC unroll Lanes::unroll
        for (int k = 1; k < together; ++k)
            sum = Lanes::multiply_add(sum, levels[q + k], Lanes::quad(numbers + 4 * (q + k)));
        total = q == 0 ? Lanes::widen(sum) : Lanes::add(total, Lanes::widen(sum));
    }
    return total;
}

// Sums over a block of level times number, by row; a code of 8 bits does not fit the products and goes in two halves.
template <int bits>
MEDIANT_TILE_INLINE Ints dot(const Bytes *levels, const int8_t *numbers) {
    if constexpr (bits < 8) {
        return dots<sums_in_16_bits(bits)>(levels, numbers);
    } else {
        Bytes half[8];
        const Bytes low = Lanes::fill(0x0F);
        for (int q = 0; q < 8; ++q) half[q] = Lanes::both(Lanes::right<4>(levels[q]), low);
        const Ints upper = dots<4>(half, numbers);
        for (int q = 0; q < 8; ++q) half[q] = Lanes::both(levels[q], low);
        return Lanes::shift_add<4>(upper, dots<4>(half, numbers));
    }
}

template <int bits, bool precise>
MEDIANT_TILE_INLINE Floats sum_of(const Bytes *levels, const ActivationView &x, int64_t place) {
    Ints sum = dot<bits>(levels, x.high + kBlock * place);
    if constexpr (precise) sum = Lanes::shift_add<7>(sum, dot<bits>(levels, x.low + kBlock * place));
    return Lanes::to_float(sum);
}

// Sums over a block of level times number for `streams` panels in step, so that a quad of activations is fetched once
// for all; `halves`: of numbers, each with its totals.
template <int layout, int streams, int halves, int part = 0>
MEDIANT_TILE_INLINE void dots_in_step(const uint8_t *const (*at)[kDigits], const Tables &tables,
                                      const int8_t *const *numbers, Ints (*total)[streams]) {
    constexpr int quads = kPart<layout>, together = sums_in_16_bits(code_bits(layout));
    Bytes held[streams][kPart<layout>];
#pragma GCC unroll Lanes::unroll
    for (int s = 0; s < streams; ++s) hold<layout, part>(at[s], held[s]);
    Sums sums[halves][streams];
#pragma GCC unroll Lanes::unroll
    for (int q = 0; q < quads; ++q) {
        const bool first = q % together == 0, last = q % together == together - 1;
        Lanes::Quad quad[halves];
#pragma GCC unroll Lanes::unroll
        for (int h = 0; h < halves; ++h) quad[h] = Lanes::quad(numbers[h] + 4 * (quads * part + q));
#pragma GCC unroll Lanes::unroll
        for (int s = 0; s < streams; ++s) {
            const Bytes level = level_in<layout>(held[s], q, tables);
#pragma GCC unroll Lanes::unroll
            for (int h = 0; h < halves; ++h) {
                sums[h][s] = first ? Lanes::multiply(level, quad[h]) : Lanes::multiply_add(sums[h][s], level, quad[h]);
                if (!last) continue;
                const Ints wide = Lanes::widen(sums[h][s]);
                total[h][s] = part == 0 && q < together ? wide : Lanes::add(total[h][s], wide);
            }
        }
    }
    if constexpr (quads * (part + 1) < 8)
        dots_in_step<layout, streams, halves, part + 1>(at, tables, numbers, total);
}

// As `sum_of`, for `streams` panels: in step where that pays, as many as fit the registers.
template <int layout, bool precise, int streams>
MEDIANT_TILE_INLINE void sums_of(const uint8_t *const (*at)[kDigits], const Tables &tables, const ActivationView &x,
                                 int64_t place, Floats *out) {
    constexpr int bits = code_bits(layout), halves = precise ? 2 : 1, most = digit_count(layout) > 2 ? 2 : 4;
    if constexpr (bits == 8 || Lanes::unroll == 1) {
#pragma GCC unroll Lanes::unroll
        for (int s = 0; s < streams; ++s) {
            Bytes levels[8];
            expand<layout>(at[s], tables, levels);
            out[s] = sum_of<bits, precise>(levels, x, place);
        }
    } else if constexpr (streams > 1 && streams * halves > most) {
        sums_of<layout, precise, streams / 2>(at, tables, x, place, out);
        sums_of<layout, precise, streams / 2>(at + streams / 2, tables, x, place, out + streams / 2);
    } else {
        const int8_t *const numbers[2] = {x.high + kBlock * place, x.low + kBlock * place};
        Ints total[halves][streams];
        dots_in_step<layout, streams, halves>(at, tables, numbers, total);
#pragma GCC unroll Lanes::unroll
        for (int s = 0; s < streams; ++s)
            out[s] = Lanes::to_float(precise ? Lanes::shift_add<7>(total[0][s], total[halves - 1][s]) : total[0][s]);
    }
}

// The factors of eight rows from scale codes that are not 3 bits wide.
[[gnu::noinline]] void factors_by_row(const PackedMatrix &m, const uint8_t *code, float unit, float *out) {
    uint64_t word = 0;
    for (int i = 0; i < m.scale_bits; ++i) word |= static_cast<uint64_t>(code[i]) << (8 * i);
    const uint64_t mask = (uint64_t{1} << m.scale_bits) - 1;
    for (int r = 0; r < kPanel; ++r, word >>= m.scale_bits) out[r] = unit * m.factors[word & mask];
}

template <bool three>
MEDIANT_TILE_INLINE Floats factors_of(const PackedMatrix &m, const uint8_t *code, float unit, Floats table) {
    if constexpr (three) {
        return Lanes::factors3(table, code);
    } else {
        float out[kPanel];
        factors_by_row(m, code, unit, out);
        return Lanes::load_floats(out);
    }
}

inline float row_scale(const PackedMatrix &m, int64_t row) {
    const uint32_t bits = static_cast<uint32_t>(m.row_scales[row]) << 16;
    float scale;
    __builtin_memcpy(&scale, &bits, 4);
    return scale;
}

// The results of an panel, of which a run's last may have fewer than eight rows.
inline void store_panel(const PackedMatrix &m, const PackedRun &run, int64_t panel, const float *sums, float *y) {
    const int64_t first = panel * kPanel;
    const int64_t count = run.rows - first < kPanel ? run.rows - first : kPanel;
    for (int64_t r = 0; r < count; ++r) {
        const int64_t row = run.first_row + first + r;
        y[row] = sums[r] * row_scale(m, row);
    }
}

template <int layout>
MEDIANT_TILE_INLINE void digits_at(const PackedMatrix &m, const PackedRun &run, int64_t panel, const uint8_t **at) {
    for (int d = 0; d < digit_count(layout); ++d)
        at[d] = run.digits[d] + panel * m.blocks * kBlock * digit_width(layout, d);
}

inline const uint8_t *scales_at(const PackedMatrix &m, const PackedRun &run, int64_t panel) {
    return m.scale_codes + (run.first_panel + panel) * m.groups * m.scale_bits;
}

// One vector times `streams` panels, `stride` apart, in lock-step: several streams of memory are faster than one.
// `three`: scale codes have 3 bits.
template <int layout, bool precise, int streams, bool three>
[[gnu::noinline]] void gemv_streams(const PackedMatrix &m, const PackedRun &run, const ActivationView &x, float *y,
                                    int64_t first, int64_t stride) {
    constexpr int count = digit_count(layout);
    const Tables tables = tables_of(run, layout);
    float scaled[8];
    for (int k = 0; k < 8; ++k) scaled[k] = run.unit * m.factors[k];
    const Floats table = Lanes::load_floats(scaled);
    const uint8_t *at[kDigits], *scale = scales_at(m, run, first);
    digits_at<layout>(m, run, first, at);
    int64_t step[kDigits];
    for (int d = 0; d < count; ++d) step[d] = stride * m.blocks * kBlock * digit_width(layout, d);
    const int64_t scale_step = stride * m.groups * m.scale_bits, blocks = m.blocks, per_group = m.blocks_per_group;
    const int64_t scale_bytes = m.scale_bits;
    const float *scales = x.scales, *shifts = x.sums;
    const float zero = run.zero, unit = run.unit;
    Floats sums[streams];
    for (int s = 0; s < streams; ++s) sums[s] = Lanes::set(0);
    int64_t left = per_group;
    for (int64_t b = 0; b < blocks; ++b) {
        const Floats size = Lanes::set(scales[b]), shift = Lanes::set(zero * shifts[b]);
        const uint8_t *here[streams][kDigits];
#pragma GCC unroll Lanes::unroll
        for (int s = 0; s < streams; ++s)
            for (int d = 0; d < count; ++d) {
                here[s][d] = at[d] + s * step[d];
                Lanes::ahead(here[s][d], kBlock * digit_width(layout, d));
            }
        Floats sum[streams];
        sums_of<layout, precise, streams>(here, tables, x, b, sum);
#pragma GCC unroll Lanes::unroll
        for (int s = 0; s < streams; ++s) {
            const Floats factor = factors_of<three>(m, scale + s * scale_step, unit, table);
            sums[s] = Lanes::fused(Lanes::fused_minus(sum[s], size, shift), factor, sums[s]);
        }
        for (int d = 0; d < count; ++d) at[d] += kBlock * digit_width(layout, d);
        if (--left == 0) left = per_group, scale += scale_bytes;
    }
    for (int s = 0; s < streams; ++s) {
        float out[kPanel];
        Lanes::store_floats(out, sums[s]);
        store_panel(m, run, first + s * stride, out, y);
    }
}

constexpr int kStreams = 4;

template <int layout, bool precise>
void gemv(const PackedMatrix &m, const PackedRun &run, const ActivationView &x, float *y, int64_t, int64_t begin,
          int64_t end) {
    if (m.scale_bits != 3) {
        for (int64_t o = begin; o < end; ++o) gemv_streams<layout, precise, 1, false>(m, run, x, y, o, 0);
        return;
    }
    const int64_t part = (end - begin) / kStreams;
    for (int64_t o = 0; o < part; ++o) gemv_streams<layout, precise, kStreams, true>(m, run, x, y, begin + o, part);
    for (int64_t o = begin + kStreams * part; o < end; ++o) gemv_streams<layout, precise, 1, true>(m, run, x, y, o, 0);
}

constexpr int kVectors = 32;  // that share the expansion of an panel's levels

// Up to kVectors vectors times one panel; each block's levels are expanded once.
template <int layout, bool precise>
[[gnu::noinline]] void gemm_panel(const PackedMatrix &m, const PackedRun &run, const ActivationView &x, float *y,
                                  int64_t stride, int64_t panel, int64_t first, int64_t count) {
    constexpr int bits = code_bits(layout), digits = digit_count(layout);
    const Tables tables = tables_of(run, layout);
    float scaled[8];
    for (int k = 0; k < 8; ++k) scaled[k] = run.unit * m.factors[k];
    const Floats table = Lanes::load_floats(scaled), zero = Lanes::set(run.zero);
    const uint8_t *at[kDigits], *scale = scales_at(m, run, panel);
    digits_at<layout>(m, run, panel, at);
    Floats sums[kVectors];
    for (int64_t n = 0; n < count; ++n) sums[n] = Lanes::set(0);
    int64_t left = m.blocks_per_group;
    for (int64_t b = 0; b < m.blocks; ++b) {
        Bytes levels[8];
        expand<layout>(at, tables, levels);
        const Floats factor = m.scale_bits == 3 ? factors_of<true>(m, scale, run.unit, table)
                                                : factors_of<false>(m, scale, run.unit, table);
        for (int64_t n = 0; n < count; ++n) {
            const int64_t place = b * x.count + first + n;
            const Floats sum = sum_of<bits, precise>(levels, x, place);
            const Floats shift = Lanes::times(zero, Lanes::set(x.sums[place]));
            sums[n] = Lanes::fused(Lanes::fused_minus(sum, Lanes::set(x.scales[place]), shift), factor, sums[n]);
        }
        for (int d = 0; d < digits; ++d) at[d] += kBlock * digit_width(layout, d);
        if (--left == 0) left = m.blocks_per_group, scale += m.scale_bits;
    }
    for (int64_t n = 0; n < count; ++n) {
        float out[kPanel];
        Lanes::store_floats(out, sums[n]);
        store_panel(m, run, panel, out, y + (first + n) * stride);
    }
}

template <int layout, bool precise>
void gemm(const PackedMatrix &m, const PackedRun &run, const ActivationView &x, float *y, int64_t stride, int64_t begin,
          int64_t end) {
    for (int64_t n = 0; n < x.count; n += kVectors) {
        const int64_t count = x.count - n < kVectors ? x.count - n : kVectors;
        for (int64_t o = begin; o < end; ++o) gemm_panel<layout, precise>(m, run, x, y, stride, o, n, count);
    }
}

using RunKernel = void (*)(const PackedMatrix &, const PackedRun &, const ActivationView &, float *, int64_t, int64_t,
                           int64_t);

template <bool precise, bool many>
RunKernel kernel_of(int layout) {
    static_assert(kLayouts == 13);
    constexpr RunKernel all[kLayouts] = {
        many ? &gemm<0, precise> : &gemv<0, precise>,   many ? &gemm<1, precise> : &gemv<1, precise>,
        many ? &gemm<2, precise> : &gemv<2, precise>,   many ? &gemm<3, precise> : &gemv<3, precise>,
        many ? &gemm<4, precise> : &gemv<4, precise>,   many ? &gemm<5, precise> : &gemv<5, precise>,
        many ? &gemm<6, precise> : &gemv<6, precise>,   many ? &gemm<7, precise> : &gemv<7, precise>,
        many ? &gemm<8, precise> : &gemv<8, precise>,   many ? &gemm<9, precise> : &gemv<9, precise>,
        many ? &gemm<10, precise> : &gemv<10, precise>, many ? &gemm<11, precise> : &gemv<11, precise>,
        many ? &gemm<12, precise> : &gemv<12, precise>,
    };
    return all[layout];
}

void multiply(const PackedMatrix &m, const ActivationView &x, float *y, int64_t stride, int64_t begin, int64_t end) {
    for (int64_t i = 0; i < m.run_count; ++i) {
        const PackedRun &run = m.runs[i];
        const int64_t from = begin > run.first_panel ? begin - run.first_panel : 0;
        const int64_t to = end - run.first_panel < run.panels ? end - run.first_panel : run.panels;
        if (from >= to || x.count == 0) continue;
        const RunKernel kernel = x.count == 1 ? (x.precise ? kernel_of<true, false>(run.layout)
                                                           : kernel_of<false, false>(run.layout))
                                              : (x.precise ? kernel_of<true, true>(run.layout)
                                                           : kernel_of<false, true>(run.layout));
        kernel(m, run, x, y, stride, from, to);
    }
}

#include "tile_activations.h"
