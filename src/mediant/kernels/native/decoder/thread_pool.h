// Threads that stay for the life of a decoder. All of them run the same function at once, each with its own number, and
// meet at barriers; who waits spins for some 20 microseconds and then sleeps, so that a neighbour who takes a core
// costs a wake-up and not a time slice.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace mediant::decoder {

// Waits until `word` differs from `old`; `sleepers` counts those whom the changer must wake.
inline void await_change(std::atomic<uint32_t> &word, uint32_t old, std::atomic<int> &sleepers) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::microseconds(20);
    do {
        for (int i = 0; i < 32; ++i) {
            if (word.load(std::memory_order_acquire) != old) return;
#if defined(__x86_64__)
            __builtin_ia32_pause();
#endif
        }
    } while (std::chrono::steady_clock::now() < deadline);
    sleepers.fetch_add(1);
    while (word.load() == old) word.wait(old);
    sleepers.fetch_sub(1);
}

inline void change(std::atomic<uint32_t> &word, std::atomic<int> &sleepers) {
    word.fetch_add(1);
    if (sleepers.load() > 0) word.notify_all();
}

class Pool {
  public:
    explicit Pool(int threads) : threads_(threads) {
        for (int t = 1; t < threads; ++t) workers_.emplace_back([this, t] { serve(t); });
    }
    ~Pool() {
        task_ = nullptr;
        change(round_, sleepers_);
        for (auto &worker : workers_) worker.join();
    }
    Pool(const Pool &) = delete;

    int threads() const { return threads_; }

    // Calls task(t) on every thread t, the caller being thread 0, and returns when all have ended.
    void run(const std::function<void(int)> &task) {
        task_ = &task;
        change(round_, sleepers_);
        task(0);
        barrier();
    }

    // Returns when all threads of the running task have come here.
    void barrier() {
        if (threads_ == 1) return;
        const uint32_t phase = phase_.load(std::memory_order_acquire);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
            arrived_.store(0, std::memory_order_relaxed);
            change(phase_, waiting_);
        } else {
            await_change(phase_, phase, waiting_);
        }
    }

  private:
    void serve(int t) {
        uint32_t seen = 0;
        for (;;) {
            await_change(round_, seen, sleepers_);
            ++seen;
            if (!task_) return;
            (*task_)(t);
            barrier();
        }
    }

    const int threads_;
    std::vector<std::thread> workers_;
    const std::function<void(int)> *task_ = nullptr;
    alignas(64) std::atomic<uint32_t> round_{0};
    std::atomic<int> sleepers_{0};
    alignas(64) std::atomic<uint32_t> phase_{0};
    std::atomic<int> waiting_{0};
    alignas(64) std::atomic<int> arrived_{0};
};

// The share [begin, end) of thread t among [0, count), a multiple of `unit` but for the last.
struct Share {
    int64_t begin, end;
    Share(int64_t count, int t, int threads, int64_t unit = 1) {
        const int64_t units = (count + unit - 1) / unit;
        begin = units * t / threads * unit;
        end = std::min(count, units * (t + 1) / threads * unit);
    }
};

}  // namespace mediant::decoder
