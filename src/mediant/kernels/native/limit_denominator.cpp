// Native twin of mediant.kernels.limit_denominator, which states the contract.
//
// A double is odd / 2^places. After the first division, 2^places by the odd numerator of its fractional part, all of
// Euclid's remainders are below 2^53. So one division alone may need 128 bits, and the others are exact in doubles
// too: for integers n, d < 2^53 the quotient n / d lies at least 1 / d > 2^-53 n / d below the next integer, so
// rounding cannot reach it, and floor(n / d) is right. That is what the AVX2 path counts on.
#include "registry.h"

#include <array>
#include <atomic>
#include <bit>
#include <cmath>

#if defined(__x86_64__)
#include <immintrin.h>
#define MEDIANT_AVX2 __attribute__((target("avx2")))
#endif

namespace {

using Doubles = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Integers = nb::ndarray<int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Wide = unsigned __int128;

struct Fraction {
    uint64_t p, q;
};

// Where Euclid's algorithm stands: a and r are quotient and rest of a division by d; p0/q0 and p1/q1 are the last two
// convergents, the next is (a p1 + p0) / (a q1 + q0).
struct Expansion {
    uint64_t a, d, r, p0, q0, p1, q1;
};

// odd / 2^places after its whole part, for places <= 117. A quotient beyond 64 bits becomes the largest, as it is
// larger than twice any bound; its rest means nothing.
Expansion expansion(uint64_t odd, int places) {
    const uint64_t whole = places < 64 ? odd >> places : 0;
    const uint64_t d = places < 64 ? odd - (whole << places) : odd;
    if (places < 64) {
        const uint64_t power = uint64_t{1} << places;
        return {power / d, d, power % d, 1, 0, whole, 1};
    }
    const Wide power = Wide{1} << places, a = power / d;
    if (a >> 64) return {UINT64_MAX, d, 0, 1, 0, whole, 1};
    return {static_cast<uint64_t>(a), d, static_cast<uint64_t>(power % d), 1, 0, whole, 1};
}

// Goes on until the next denominator would pass the bound.
void advance(Expansion &e, uint64_t bound) {
    for (;;) {
        const Wide q2 = Wide{e.a} * e.q1 + e.q0;
        if (q2 > bound) return;
        const uint64_t p2 = e.a * e.p1 + e.p0;
        e = {e.d / e.r, e.r, e.d % e.r, e.p1, e.q1, p2, static_cast<uint64_t>(q2)};
    }
}

// The last convergent p1/q1, or the semiconvergent on the other side; the reference derives the rule.
Fraction nearer(const Expansion &e, uint64_t bound, bool prefer_upper) {
    const uint64_t k = (bound - e.q0) / e.q1;
    bool last = e.a - k > k;
    if (e.a - k == k) {
        const Wide left = Wide{e.d} * e.q0, right = Wide{e.r} * e.q1;
        last = left < right || (left == right && !prefer_upper);
    }
    return last ? Fraction{e.p1, e.q1} : Fraction{e.p0 + k * e.p1, e.q0 + k * e.q1};
}

// One call's arguments.
struct Task {
    const double *x;
    uint64_t bound;
    int64_t *p, *q;

    void set(int64_t i, Fraction f) const {
        const int64_t magnitude = static_cast<int64_t>(f.p);
        p[i] = std::signbit(x[i]) ? -magnitude : magnitude;
        q[i] = static_cast<int64_t>(f.q);
    }
    // Two integers are equally near: the lower is the upper of the magnitudes where x < 0. Only bound 1 allows it.
    bool prefer_upper(int64_t i) const { return bound == 1 && std::signbit(x[i]); }
};

#ifdef MEDIANT_AVX2

// Four expansions in doubles. All in them are integers below 2^53, but for a quotient that ends its lane, which is
// then only compared with at most twice the bound.
struct Lanes {
    __m256d a, d, r, p0, q0, p1, q1;
};

constexpr uint64_t kLanesBound = uint64_t{1} << 51;

// One step of `advance` in the lanes that go on; which ones do, as bits.
MEDIANT_AVX2 inline int step(Lanes &s, __m256d bound) {
    const __m256d p2 = s.a * s.p1 + s.p0, q2 = s.a * s.q1 + s.q0, on = _mm256_cmp_pd(q2, bound, _CMP_LE_OQ);
    const __m256d quotient = _mm256_floor_pd(s.d / s.r), rest = s.d - quotient * s.r;
    s.p0 = _mm256_blendv_pd(s.p0, s.p1, on), s.p1 = _mm256_blendv_pd(s.p1, p2, on);
    s.q0 = _mm256_blendv_pd(s.q0, s.q1, on), s.q1 = _mm256_blendv_pd(s.q1, q2, on);
    s.d = _mm256_blendv_pd(s.d, s.r, on), s.r = _mm256_blendv_pd(s.r, rest, on);
    s.a = _mm256_blendv_pd(s.a, quotient, on);
    return _mm256_movemask_pd(on);
}

// Sixteen numbers that advance together, so that divisions overlap. Lanes not in use hold what was there before, or
// an infinite quotient, which ends them at once.
struct Block {
    static constexpr int groups = 4, capacity = 4 * groups;
    using Column = std::array<double, capacity>;
    alignas(32) Column a, d, r, p1;
    int64_t index[capacity];
    int used = 0;

    Block() { a.fill(INFINITY), d.fill(1), r.fill(1), p1.fill(0); }

    void add(int64_t i, const Expansion &e) {
        a[used] = static_cast<double>(e.a), d[used] = static_cast<double>(e.d);
        r[used] = static_cast<double>(e.r), p1[used] = static_cast<double>(e.p1);
        index[used++] = i;
    }

    MEDIANT_AVX2 void finish(const Task &task) {
        const __m256d one = _mm256_set1_pd(1), zero = _mm256_setzero_pd();
        Lanes lanes[groups];
        for (int g = 0; g < groups; ++g) {
            lanes[g] = {_mm256_load_pd(&a[4 * g]), _mm256_load_pd(&d[4 * g]), _mm256_load_pd(&r[4 * g]), one, zero,
                        _mm256_load_pd(&p1[4 * g]), one};
        }
        const __m256d bound = _mm256_set1_pd(static_cast<double>(task.bound));
        for (int live = 1; live;) {
            live = 0;
#pragma GCC unroll 4
            for (int g = 0; g < groups; ++g) live |= step(lanes[g], bound);
        }
        for (int g = 0; g < groups; ++g) choose(lanes[g], 4 * g, bound, task);
        used = 0;
    }

    // `nearer` in four lanes from `first` on; where it takes a product, by integers.
    MEDIANT_AVX2 void choose(const Lanes &s, int first, __m256d bound, const Task &task) const {
        const __m256d k = _mm256_floor_pd((bound - s.q0) / s.q1), twice = k + k;
        const __m256d last = _mm256_cmp_pd(s.a, twice, _CMP_GT_OQ);
        const __m256d p = _mm256_blendv_pd(s.p0 + k * s.p1, s.p1, last), q = _mm256_blendv_pd(s.q0 + k * s.q1, s.q1, last);
        const int even = _mm256_movemask_pd(_mm256_cmp_pd(s.a, twice, _CMP_EQ_OQ));
        for (int lane = 0; lane < 4 && first + lane < used; ++lane) {
            const auto whole = [lane](const __m256d &v) { return static_cast<uint64_t>(static_cast<int64_t>(v[lane])); };
            Fraction best{whole(p), whole(q)};
            if (even >> lane & 1) {
                const Expansion e{whole(s.a), whole(s.d), whole(s.r), whole(s.p0), whole(s.q0), whole(s.p1), whole(s.q1)};
                best = nearer(e, task.bound, task.prefer_upper(index[first + lane]));
            }
            task.set(index[first + lane], best);
        }
    }
};

#endif

// Sets every i in [begin, end) that needs no division, and hands the others to expand(i, odd, places).
// Leaves 0/1 where |x| >= 2^63, which the caller replaces.
template <typename Expand>
inline void sort_out(const Task &task, int64_t begin, int64_t end, Expand expand) {
    constexpr uint64_t hidden = uint64_t{1} << 52;
    for (int64_t i = begin; i < end; ++i) {
        const uint64_t bits = std::bit_cast<uint64_t>(task.x[i]), field = bits & (hidden - 1);
        const int exponent = static_cast<int>(bits >> 52 & 2047);
        const uint64_t significand = exponent ? field | hidden : field;
        if (significand == 0 || exponent >= 1023 + 63) {
            task.set(i, {0, 1});
            continue;
        }
        const int trailing = std::countr_zero(significand), places = 1075 - std::max(exponent, 1) - trailing;
        const uint64_t odd = significand >> trailing;
        if (places <= 0) {
            task.set(i, {odd << -places, 1});
        } else if (places < 63 && uint64_t{1} << places <= task.bound) {
            task.set(i, {odd, uint64_t{1} << places});
        } else if (places > 117) {
            task.set(i, {0, 1});  // |x| < 2^-64: no 1/q is nearer than 0.
        } else {
            expand(i, odd, places);
        }
    }
}

void limit(const Task &task, int64_t begin, int64_t end) {
    sort_out(task, begin, end, [&](int64_t i, uint64_t odd, int places) {
        Expansion e = expansion(odd, places);
        advance(e, task.bound);
        task.set(i, nearer(e, task.bound, task.prefer_upper(i)));
    });
}

#ifdef MEDIANT_AVX2
MEDIANT_AVX2 void limit_avx2(const Task &task, int64_t begin, int64_t end) {
    Block block;
    sort_out(task, begin, end, [&](int64_t i, uint64_t odd, int places) {
        block.add(i, expansion(odd, places));
        if (block.used == Block::capacity) block.finish(task);
    });
    block.finish(task);
}
#endif

// The caller has checked that x is finite, that bound >= 1, and that the lengths agree. `lanes` allows AVX2.
void limit_denominator(Doubles x, int64_t bound, Integers p, Integers q, int threads, [[maybe_unused]] bool lanes) {
    const Task task{x.data(), static_cast<uint64_t>(bound), p.data(), q.data()};
    const int64_t count = static_cast<int64_t>(x.size());
    auto work = &limit;
#ifdef MEDIANT_AVX2
    if (lanes && task.bound <= kLanesBound && __builtin_cpu_supports("avx2")) work = &limit_avx2;
#endif
    nb::gil_scoped_release release;
    // Expansions differ in length and threads in luck, so each takes a new piece when it is done with one.
    constexpr int64_t piece = 4096;
    std::atomic<int64_t> next{0};
    mediant::parallel_for(threads, threads, [&](int64_t, int64_t) {
        for (int64_t begin; (begin = next.fetch_add(piece)) < count;) work(task, begin, std::min(count, begin + piece));
    });
}

}  // namespace

MEDIANT_KERNEL(limit_denominator) {
    m.def("limit_denominator", &limit_denominator, nb::arg("x"), nb::arg("bound"), nb::arg("p").noconvert(),
          nb::arg("q").noconvert(), nb::arg("threads"), nb::arg("lanes") = true);
}
