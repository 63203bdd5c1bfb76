// Native twin of mediant.kernels.bit_planes, which states the layout. Eight numbers are one 64-bit word, whose byte i
// is number i: a byte of a plane spreads to the lowest bits of the eight bytes, and gathers from them.
#include <array>
#include <cstring>

#include "registry.h"

namespace {

using Input = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

constexpr uint64_t kLowest = 0x0101010101010101;  // the lowest bit of every byte

// Bit i of the index moves to bit 8i, whatever the machine's byte order: words are put together by shifts.
constexpr std::array<uint64_t, 256> make_spread() {
    std::array<uint64_t, 256> table{};
    for (unsigned byte = 0; byte < 256; ++byte)
        for (unsigned i = 0; i < 8; ++i) table[byte] |= uint64_t{byte >> i & 1} << (8 * i);
    return table;
}

constexpr auto kSpread = make_spread();

// Moves bit 8i to bit i: the factor's terms 2^(56 - 7i) bring each bit to 56 + i, and no two of them carry.
inline uint8_t gather(uint64_t word) { return static_cast<uint8_t>(((word & kLowest) * 0x0102040810204080) >> 56); }

inline uint64_t load(const uint8_t *bytes, int64_t count) {
    uint64_t word = 0;
    for (int64_t i = 0; i < count; ++i) word |= uint64_t{bytes[i]} << (8 * i);
    return word;
}

inline void store(uint64_t word, uint8_t *bytes, int64_t count) {
    for (int64_t i = 0; i < count; ++i) bytes[i] = static_cast<uint8_t>(word >> (8 * i));
}

void pack(Input codes, int bits, Output packed, int threads) {
    const int64_t count = static_cast<int64_t>(codes.size()), plane = (count + 7) / 8;
    const uint8_t *in = codes.data();
    uint8_t *out = packed.data();
    nb::gil_scoped_release release;
    mediant::parallel_for(plane, threads, [=](int64_t begin, int64_t end) {
        for (int64_t j = begin; j < end; ++j) {
            const uint64_t word = 8 * j + 8 <= count ? load(in + 8 * j, 8) : load(in + 8 * j, count - 8 * j);
            for (int p = 0; p < bits; ++p) out[p * plane + j] = gather(word >> (bits - 1 - p));
        }
    });
}

void unpack(Input packed, int bits, Output codes, int threads) {
    const int64_t count = static_cast<int64_t>(codes.size()), plane = (count + 7) / 8;
    const uint8_t *in = packed.data();
    uint8_t *out = codes.data();
    nb::gil_scoped_release release;
    mediant::parallel_for(plane, threads, [=](int64_t begin, int64_t end) {
        for (int64_t j = begin; j < end; ++j) {
            uint64_t word = 0;
            for (int p = 0; p < bits; ++p) word = word << 1 | kSpread[in[p * plane + j]];
            if (8 * j + 8 <= count)
                store(word, out + 8 * j, 8);
            else
                store(word, out + 8 * j, count - 8 * j);
        }
    });
}

}  // namespace

MEDIANT_KERNEL(bit_planes) {
    m.def("pack_bit_planes", &pack, nb::arg("codes"), nb::arg("bits"), nb::arg("packed").noconvert(),
          nb::arg("threads"));
    m.def("unpack_bit_planes", &unpack, nb::arg("packed"), nb::arg("bits"), nb::arg("codes").noconvert(),
          nb::arg("threads"));
}
