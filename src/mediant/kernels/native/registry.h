// How a kernel file makes itself known: it defines one function with MEDIANT_KERNEL and is found when the
// module loads, so that adding an operator touches no other file.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

namespace nb = nanobind;

namespace mediant {

using Binder = void (*)(nb::module_ &);

inline std::vector<Binder> &binders() {
    static std::vector<Binder> list;
    return list;
}

struct Registration {
    explicit Registration(Binder binder) { binders().push_back(binder); }
};

// Calls body(begin, end) on contiguous shares of [0, count). Each item is computed alone, so the result
// does not depend on the number of threads.
template <typename Body>
void parallel_for(int64_t count, int threads, Body body) {
    threads = static_cast<int>(std::clamp<int64_t>(threads, 1, std::max<int64_t>(count, 1)));
    std::vector<std::thread> workers;
    const int64_t share = (count + threads - 1) / threads;
    for (int t = 1; t < threads; ++t) {
        const int64_t begin = t * share, end = std::min(count, begin + share);
        if (begin < end) workers.emplace_back([=, &body] { body(begin, end); });
    }
    body(int64_t{0}, std::min(count, share));
    for (auto &worker : workers) worker.join();
}

// Calls body(scratch, first, rows) on blocks of `block` rows, of which the last may have fewer, with what
// make_scratch() returned to the thread.
template <typename Make, typename Body>
void parallel_blocks(int64_t count, int64_t block, int threads, Make make_scratch, Body body) {
    parallel_for((count + block - 1) / block, threads, [&](int64_t begin, int64_t end) {
        auto scratch = make_scratch();
        for (int64_t first = begin * block; first < std::min(count, end * block); first += block)
            body(scratch, first, std::min(block, count - first));
    });
}

}  // namespace mediant

#define MEDIANT_KERNEL(name)                                             \
    static void bind_##name(nb::module_ &m);                             \
    static const ::mediant::Registration registered_##name{&bind_##name}; \
    static void bind_##name(nb::module_ &m)
