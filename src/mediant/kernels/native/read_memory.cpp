// Native twin of mediant.kernels.read_memory, which states the contract: reads memory as fast as it comes.
#include "registry.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define MEDIANT_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define MEDIANT_CLONES
#endif

namespace {

constexpr int kStreams = 8;
constexpr int kWords = 8;  // a cache line

// One stream alone does not fill the memory's pipes: eight equal shares are read in lock-step.
MEDIANT_CLONES uint64_t folded(const uint64_t *at, int64_t count) {
    const int64_t share = count / (kStreams * kWords) * kWords;
    uint64_t sums[kWords] = {0};
    for (int64_t i = 0; i < share; i += kWords)
        for (int s = 0; s < kStreams; ++s)
            for (int w = 0; w < kWords; ++w) sums[w] ^= at[s * share + i + w];
    uint64_t total = 0;
    for (int64_t i = kStreams * share; i < count; ++i) total ^= at[i];
    for (uint64_t sum : sums) total ^= sum;
    return total;
}

using Words = nb::ndarray<const uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

uint64_t read_memory(Words words, int threads) {
    const uint64_t *at = words.data();
    const int64_t count = static_cast<int64_t>(words.size());
    threads = std::max(threads, 1);
    std::vector<uint64_t> results(static_cast<size_t>(threads), 0);
    nb::gil_scoped_release release;
    mediant::parallel_for(threads, threads, [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
            const int64_t first = count * t / threads, last = count * (t + 1) / threads;
            results[static_cast<size_t>(t)] = folded(at + first, last - first);
        }
    });
    uint64_t total = 0;
    for (uint64_t result : results) total ^= result;
    return total;
}

}  // namespace

MEDIANT_KERNEL(read_memory) { m.def("read_memory", &read_memory, nb::arg("words"), nb::arg("threads")); }
