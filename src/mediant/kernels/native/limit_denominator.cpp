// Native twin of mediant.kernels.limit_denominator, which states the contract.
//
// A double is odd / 2^places. After the first division, 2^places by the odd numerator of its fractional part, all of
// Euclid's remainders are below 2^53, so that one division alone may need 128 bits.
#include "registry.h"

#include <atomic>
#include <bit>
#include <cmath>

namespace {

using Doubles = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Integers = nb::ndarray<int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Wide = unsigned __int128;

struct Fraction {
    uint64_t p, q;
};

struct Quotient {
    uint64_t quotient, rest;
};

// 2^places / divisor for places <= 117; a quotient beyond 64 bits becomes the largest, and its rest means nothing.
Quotient divide_power_of_two(int places, uint64_t divisor) {
    if (places < 64) return {(uint64_t{1} << places) / divisor, (uint64_t{1} << places) % divisor};
    const Wide power = Wide{1} << places, quotient = power / divisor;
    if (quotient >> 64) return {UINT64_MAX, 0};
    return {static_cast<uint64_t>(quotient), static_cast<uint64_t>(power - quotient * divisor)};
}

// Nearest to odd / 2^places, where bound < 2^places: Euclid's algorithm until a denominator would pass the bound.
Fraction expand(uint64_t odd, int places, uint64_t bound, bool prefer_upper) {
    const uint64_t whole = places < 64 ? odd >> places : 0;
    uint64_t d = places < 64 ? odd - (whole << places) : odd;
    auto [a, r] = divide_power_of_two(places, d);
    uint64_t p0 = 1, q0 = 0, p1 = whole, q1 = 1;
    for (;;) {
        const Wide q2 = Wide{a} * q1 + q0;
        if (q2 > bound) break;
        const uint64_t p2 = a * p1 + p0, n = d;
        p0 = p1, p1 = p2;
        q0 = q1, q1 = static_cast<uint64_t>(q2);
        d = r, a = n / d, r = n - a * d;
    }
    // The last convergent p1/q1, or the semiconvergent on the other side; the reference derives the rule.
    const uint64_t k = (bound - q0) / q1;
    bool last = a - k > k;
    if (a - k == k) {
        const Wide left = Wide{d} * q0, right = Wide{r} * q1;
        last = left < right || (left == right && !prefer_upper);
    }
    return last ? Fraction{p1, q1} : Fraction{p0 + k * p1, q0 + k * q1};
}

// For |x| < 2^63; 0/1 beyond, which the caller replaces.
Fraction nearest(double x, uint64_t bound) {
    constexpr uint64_t hidden = uint64_t{1} << 52;
    const uint64_t bits = std::bit_cast<uint64_t>(x), field = bits & (hidden - 1);
    const int exponent = static_cast<int>(bits >> 52 & 2047);
    if ((exponent == 0 && field == 0) || exponent >= 1023 + 63) return {0, 1};
    uint64_t odd = exponent ? field | hidden : field;
    const int trailing = std::countr_zero(odd), places = 1075 - std::max(exponent, 1) - trailing;
    odd >>= trailing;
    if (places <= 0) return {odd << -places, 1};
    if (places < 63 && uint64_t{1} << places <= bound) return {odd, uint64_t{1} << places};
    // Here |x| < 2^-64, and no 1/q is nearer than 0.
    if (places > 117) return {0, 1};
    return expand(odd, places, bound, bound == 1 && bits >> 63);
}

// The caller has checked that x is finite, that bound >= 1, and that the lengths agree.
void limit_denominator(Doubles x, int64_t bound, Integers p, Integers q, int threads) {
    const double *value = x.data();
    int64_t *numerator = p.data(), *denominator = q.data();
    const int64_t count = static_cast<int64_t>(x.size());
    nb::gil_scoped_release release;
    // Expansions differ in length and threads in luck, so each takes a new piece when it is done with one.
    constexpr int64_t piece = 4096;
    std::atomic<int64_t> next{0};
    mediant::parallel_for(threads, threads, [&](int64_t, int64_t) {
        for (int64_t begin; (begin = next.fetch_add(piece)) < count;) {
            for (int64_t i = begin; i < std::min(count, begin + piece); ++i) {
                const Fraction f = nearest(value[i], static_cast<uint64_t>(bound));
                const int64_t magnitude = static_cast<int64_t>(f.p);
                numerator[i] = std::signbit(value[i]) ? -magnitude : magnitude;
                denominator[i] = static_cast<int64_t>(f.q);
            }
        }
    });
}

}  // namespace

MEDIANT_KERNEL(limit_denominator) {
    m.def("limit_denominator", &limit_denominator, nb::arg("x"), nb::arg("bound"), nb::arg("p").noconvert(),
          nb::arg("q").noconvert(), nb::arg("threads"));
}
